package api

import (
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	types "github.com/moby/moby/api/types/volume"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/volume"
)

func registerVolumes(r *Router, m *runner.Manager) {
	v := &volumesAPI{m}
	r.Handle(http.MethodGet, "/volumes", v.list)
	r.Handle(http.MethodPost, "/volumes/create", v.create)
	r.Handle(http.MethodPost, "/volumes/prune", v.prune)
	r.Handle(http.MethodGet, "/volumes/{name}", v.inspect)
	r.Handle(http.MethodPut, "/volumes/{name}", v.update)
	r.Handle(http.MethodDelete, "/volumes/{name}", v.remove)
}

// volumesAPI serves volumes over the runner.
type volumesAPI struct{ m *runner.Manager }

// labelAnonymous is how Docker marks volumes that have no name of the user's.
const labelAnonymous = "com.docker.volume.anonymous"

func described(v volume.Volume) types.Volume {
	out := types.Volume{
		Name: v.Name, Driver: volume.Driver, Mountpoint: v.Path, CreatedAt: v.Created.Format(time.RFC3339), Scope: "local",
		Labels: v.Labels, Options: v.Options,
	}
	if v.Anonymous {
		out.Labels = map[string]string{labelAnonymous: ""}
		for k, l := range v.Labels {
			out.Labels[k] = l
		}
	}
	return out
}

func (a *volumesAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("dangling", "driver", "label", "name"); err != nil {
		return err
	}
	dangling, err := f.boolean("dangling")
	if err != nil {
		return err
	}
	all, err := a.m.Volumes()
	if err != nil {
		return err
	}
	out := types.ListResponse{Volumes: []types.Volume{}}
	for _, v := range all {
		d := described(v)
		named := !f.any("name") || slices.ContainsFunc(f.values("name"), func(part string) bool { return strings.Contains(v.Name, part) })
		if named && (!f.any("driver") || f.has("driver", d.Driver)) && f.labels("label", d.Labels) &&
			(dangling == nil || *dangling == (len(a.m.VolumeUsers(v.Name)) == 0)) {
			out.Volumes = append(out.Volumes, d)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a *volumesAPI) create(w http.ResponseWriter, r *http.Request) error {
	var req types.CreateRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.ClusterVolumeSpec != nil {
		return errdefs.ErrUnavailable.WithMessage("cluster volumes need a swarm, and this node is in none")
	}
	if err := volume.CheckDriver(req.Driver); err != nil {
		return fault.NotFound("create %s: %v", req.Name, err)
	}
	v, err := a.m.CreateVolume(volume.Volume{Name: req.Name, Labels: req.Labels, Options: req.DriverOpts})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, described(v))
}

func (a *volumesAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	v, err := a.m.Volume(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, described(v))
}

// update answers PUT /volumes/{name}: only the volumes of a cluster can be changed.
func (a *volumesAPI) update(http.ResponseWriter, *http.Request) error {
	return errdefs.ErrUnavailable.WithMessage("volume update only valid for cluster volumes, but swarm is unavailable")
}

func (a *volumesAPI) remove(w http.ResponseWriter, r *http.Request) error {
	err := a.m.RemoveVolume(r.PathValue("name"))
	if err != nil && !(errdefs.IsNotFound(err) && flag(r, "force")) {
		return err
	}
	return noContent(w)
}

// prune removes the volumes that no container refers to: those without a name, or all.
func (a *volumesAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("all", "label", "label!"); err != nil {
		return err
	}
	every, err := f.boolean("all")
	if err != nil {
		return err
	}
	if yes := true; before(r, "1.42") && every == nil {
		every = &yes
	}
	all, err := a.m.Volumes()
	if err != nil {
		return err
	}
	report := types.PruneReport{VolumesDeleted: []string{}}
	for _, v := range all {
		labels := described(v).Labels
		if len(v.Options) > 0 || // it may be somebody else's disk
			!v.Anonymous && (every == nil || !*every) || !f.labels("label", labels) || f.any("label!") && f.labels("label!", labels) {
			continue
		}
		size := bytesBelow(v.Path)
		err := a.m.RemoveVolume(v.Name)
		if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
			continue // in use, or gone meanwhile
		}
		if err != nil {
			return err
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += size
	}
	a.m.Publish(runner.Event{
		Type: "volume", Action: "prune", Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)},
	})
	return writeJSON(w, http.StatusOK, report)
}

// bytesBelow adds up the files below dir that can be seen.
func bytesBelow(dir string) (n uint64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if fi, err := e.Info(); err == nil {
			n += uint64(fi.Size())
		}
		return nil
	})
	return n
}
