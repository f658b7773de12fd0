package api

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"github.com/gantry-build/gantry/internal/space"
)

// Holder is something that takes space, and what keeps it.
type Holder struct {
	Kind   string // image, container, volume, build cache, other
	Name   string
	Bytes  int64    // all that it holds
	Own    int64    // of that, what would be free without it
	KeptBy []string // why it can't go; none: it can
	Free   string   `json:",omitempty"` // the command that would take it away
}

// Holders is the answer to GET /gantry/disk.
type Holders struct {
	Root    string
	Free    int64 // bytes that are left on its file system
	Holders []Holder
}

// why answers GET /gantry/disk: what holds what, largest first within a kind.
func (u *Usage) why(w http.ResponseWriter, r *http.Request) error {
	out := Holders{Root: u.Root}
	out.Free, _ = space.Free(u.Root)
	for _, list := range []func(context.Context) ([]Holder, error){u.imageHolders, u.containerHolders, u.volumeHolders, u.cacheHolders} {
		all, err := list(r.Context())
		if err != nil {
			return err
		}
		slices.SortStableFunc(all, func(a, b Holder) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
		out.Holders = append(out.Holders, all...)
	}
	out.Holders = append(out.Holders, Holder{
		Kind: "other", Name: "gantry's programs and databases", Bytes: u.other(), KeptBy: []string{"this data root"},
	})
	return writeJSON(w, http.StatusOK, out)
}

func (u *Usage) imageHolders(ctx context.Context) ([]Holder, error) {
	all, err := u.Images.all(ctx, filters{})
	if err != nil {
		return nil, err
	}
	owners := map[string][]string{} // of each blob and snapshot
	for _, l := range all {
		for k := range l.held {
			owners[k] = append(owners[k], nameOf(l))
		}
	}
	containers := u.Runner.List()
	var out []Holder
	for _, l := range all {
		h := Holder{Kind: "image", Name: nameOf(l), Bytes: l.held.total()}
		shared := map[string]int64{}
		for k, size := range l.held {
			if len(owners[k]) == 1 {
				h.Own += size
			}
			for _, other := range owners[k] {
				if other != h.Name {
					shared[other] += size
				}
			}
		}
		for _, c := range users(containers, l.ID) {
			h.KeptBy = append(h.KeptBy, "container "+c.Name)
		}
		if len(h.KeptBy) == 0 {
			h.Free = "gantry rmi " + h.Name
		}
		for _, other := range slices.Sorted(maps.Keys(shared)) {
			h.KeptBy = append(h.KeptBy, fmt.Sprintf("%s of it: image %s", units.HumanSize(float64(shared[other])), other))
		}
		out = append(out, h)
	}
	return out, nil
}

func nameOf(l listed) string {
	if len(l.RepoTags) > 0 {
		return l.RepoTags[0]
	}
	return strings.TrimPrefix(l.ID, "sha256:")[:12]
}

func (u *Usage) containerHolders(ctx context.Context) (out []Holder, err error) {
	for _, rec := range u.Runner.List() {
		own, _, err := u.Runner.Size(ctx, rec.ID)
		if err != nil {
			continue // it is being removed
		}
		logs := int64(bytesBelow(u.Runner.Dir(rec.ID)))
		h := Holder{Kind: "container", Name: rec.Name, Bytes: own + logs, Own: own + logs}
		if logs > 0 {
			h.Name = fmt.Sprintf("%s (%s of it log)", rec.Name, units.HumanSize(float64(logs)))
		}
		if rec.State.Running {
			h.KeptBy = []string{"it is " + rec.State.Status()}
		} else {
			h.Free = "gantry rm " + rec.Name
		}
		out = append(out, h)
	}
	return out, nil
}

func (u *Usage) volumeHolders(context.Context) (out []Holder, err error) {
	all, err := u.Runner.Volumes()
	for _, v := range all {
		if len(v.Options) > 0 {
			continue // somebody else's disk
		}
		size := int64(bytesBelow(v.Path))
		h := Holder{Kind: "volume", Name: v.Name, Bytes: size, Own: size}
		for _, id := range u.Runner.VolumeUsers(v.Name) {
			if c, err := u.Runner.Get(id); err == nil {
				id = c.Name
			}
			h.KeptBy = append(h.KeptBy, "container "+id)
		}
		if len(h.KeptBy) == 0 {
			h.Free = "gantry volume rm " + v.Name
		}
		out = append(out, h)
	}
	return out, err
}

func (u *Usage) cacheHolders(ctx context.Context) ([]Holder, error) {
	c, err := u.Build.usage(ctx)
	if err != nil || c.TotalCount == 0 {
		return nil, err
	}
	var shared, inUse int64
	for _, r := range c.Items {
		switch {
		case r.InUse:
			inUse += r.Size
		case r.Shared:
			shared += r.Size
		}
	}
	h := Holder{Kind: "build cache", Name: fmt.Sprintf("%d records", c.TotalCount), Bytes: c.TotalSize, Own: c.Reclaimable}
	if c.Reclaimable > 0 {
		h.Free = "gantry builder prune -a"
	}
	if inUse > 0 {
		h.KeptBy = append(h.KeptBy, units.HumanSize(float64(inUse))+" of it: builds that run")
	}
	if shared > 0 {
		h.KeptBy = append(h.KeptBy, units.HumanSize(float64(shared))+" of it: images")
	}
	return []Holder{h}, nil
}

// other is what is in the data root beside images, containers, volumes and what was built.
func (u *Usage) other() (n int64) {
	for _, dir := range []string{"bin", "solver", "registry", "network", "buildx"} {
		n += int64(bytesBelow(filepath.Join(u.Root, dir)))
	}
	_ = filepath.WalkDir(u.Root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, ".db") && !strings.HasPrefix(path, filepath.Join(u.Root, "solver")) {
			if fi, err := e.Info(); err == nil {
				n += fi.Size()
			}
		}
		if err == nil && e.IsDir() && (e.Name() == "snapshots" || e.Name() == "blobs" || e.Name() == "_data") {
			return filepath.SkipDir
		}
		return nil
	})
	return n
}
