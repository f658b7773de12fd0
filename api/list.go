package api

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/volume"
)

// list answers docker ps: running containers, newest first; others with all, limit or a filter that
// speaks of states.
func (c *containersAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	known := []string{
		"id", "name", "label", "status", "exited", "ancestor", "volume", "network", "health", "before", "since", "is-task", "annotation",
	}
	if err := f.only(known...); err != nil {
		return err
	}
	limit, err := intOf(r, "limit", 0)
	if err != nil {
		return err
	}
	sel, err := c.selection(f)
	if err != nil {
		return err
	}
	all := flag(r, "all") || limit > 0 || f.any("status") || f.any("exited")
	records := c.m.List()
	slices.SortFunc(records, func(a, b runner.Record) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	out := []container.Summary{}
	links := c.links(records)
	for _, rec := range records {
		if !all && !rec.State.Running || !sel.takes(rec) {
			continue
		}
		s := summary(rec)
		s.Names = append(s.Names, links[rec.ID]...)
		if before(r, "1.52") {
			s.Health = nil
		}
		if before(r, "1.48") {
			s.ImageManifestDescriptor = nil
		}
		if flag(r, "size") {
			s.SizeRw, s.SizeRootFs, _ = c.m.Size(r.Context(), rec.ID)
		}
		if out = append(out, s); limit > 0 && len(out) == limit {
			break
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// links are the names that containers have for others by --link, by the ID of these: /OWN/ALIAS.
func (c *containersAPI) links(records []runner.Record) map[string][]string {
	names := map[string][]string{}
	for _, rec := range records {
		for _, l := range rec.HostConfig.Links {
			name, alias := runner.SplitLink(l)
			if to, err := c.m.Get(name); err == nil {
				names[to.ID] = append(names[to.ID], "/"+rec.Name+"/"+alias)
			}
		}
	}
	return names
}

// selection is a checked filter.
type selection struct {
	f             filters
	names         []*regexp.Regexp
	networks      []string // by their IDs
	before, since time.Time
}

func (c *containersAPI) selection(f filters) (s selection, err error) {
	s.f = f
	for _, v := range f.values("name") {
		re, err := regexp.Compile(v)
		if err != nil {
			return s, fault.Invalid("invalid filter 'name=%s': %v", v, err)
		}
		s.names = append(s.names, re)
	}
	for _, v := range f.values("status") {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return s, fault.Invalid("%v", err)
		}
	}
	for _, v := range f.values("network") {
		if n, err := c.m.NetworkOf(v); err == nil {
			s.networks = append(s.networks, n.ID)
		}
	}
	for term, at := range map[string]*time.Time{"before": &s.before, "since": &s.since} {
		for _, v := range f.values(term) {
			rec, err := c.m.Get(v)
			if err != nil {
				return s, err
			}
			*at = rec.Created
		}
	}
	return s, nil
}

func (s selection) takes(rec runner.Record) bool {
	is := func(term string, match func(string) bool) bool {
		return !s.f.any(term) || slices.ContainsFunc(s.f.values(term), match)
	}
	named := len(s.names) == 0 || slices.ContainsFunc(s.names, func(re *regexp.Regexp) bool {
		return re.MatchString(rec.Name) || re.MatchString("/"+rec.Name)
	})
	return named &&
		is("id", func(v string) bool { return strings.HasPrefix(rec.ID, v) }) &&
		is("status", func(v string) bool { return v == rec.State.Status() }) &&
		is("exited", func(v string) bool {
			return !rec.State.Running && !rec.State.FinishedAt.IsZero() && v == strconv.Itoa(rec.State.ExitCode)
		}) &&
		is("ancestor", func(v string) bool { return madeFrom(rec, v) }) &&
		is("volume", func(v string) bool { return uses(rec, v) }) &&
		(!s.f.any("network") || slices.ContainsFunc(rec.Attachments, func(a runner.Attachment) bool {
			return slices.Contains(s.networks, a.Network)
		})) &&
		is("health", func(v string) bool { return v == healthOf(rec) }) &&
		is("is-task", func(v string) bool { return v == "false" || v == "0" }) &&
		s.f.labels("label", rec.Config.Labels) && s.f.labels("annotation", rec.HostConfig.Annotations) &&
		(s.before.IsZero() || rec.Created.Before(s.before)) && (s.since.IsZero() || rec.Created.After(s.since))
}

func madeFrom(rec runner.Record, image string) bool {
	id := strings.TrimPrefix(rec.ImageID, "sha256:")
	if v := strings.TrimPrefix(image, "sha256:"); len(v) >= 4 && strings.HasPrefix(id, v) {
		return true
	}
	named, err := reference.ParseDockerRef(image)
	return image == rec.Config.Image || err == nil && named.String() == rec.Image
}

func uses(rec runner.Record, name string) bool {
	return slices.ContainsFunc(rec.Mounts, func(p volume.MountPoint) bool { return p.Name == name || p.Destination == name })
}

func healthOf(rec runner.Record) string {
	if rec.State.Health == nil {
		return "none"
	}
	return rec.State.Health.Status
}

func summary(rec runner.Record) container.Summary {
	s := container.Summary{
		ID: rec.ID, Names: []string{"/" + rec.Name}, Image: rec.Config.Image, ImageID: rec.ImageID,
		ImageManifestDescriptor: manifestOf(rec),
		Command:                 strings.Join(rec.Config.Args(), " "), Created: rec.Created.Unix(),
		Ports: portSummaries(rec), Labels: rec.Config.Labels,
		State: container.ContainerState(rec.State.Status()), Status: statusText(rec.State, time.Now()),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: endpoints(rec)},
		Mounts:          mountPoints(rec),
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.HostConfig.NetworkMode = rec.HostConfig.NetworkMode
	s.HostConfig.Annotations = rec.HostConfig.Annotations
	if h := rec.State.Health; h != nil {
		s.Health = &container.HealthSummary{Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak}
	}
	return s
}

// manifestOf is the manifest that a container was made from, with its platform.
func manifestOf(rec runner.Record) *ocispec.Descriptor {
	d := rec.Manifest
	if d.Platform == nil {
		d.Platform = &rec.Platform
	}
	return &d
}

// statusText is the state in Docker's words.
func statusText(s runner.State, now time.Time) string {
	switch {
	case s.Removing:
		return "Removal In Progress"
	case s.Restarting:
		return "Restarting (" + strconv.Itoa(s.ExitCode) + ") " + units.HumanDuration(now.Sub(s.FinishedAt)) + " ago"
	case s.Running:
		text := "Up " + units.HumanDuration(now.Sub(s.StartedAt))
		switch {
		case s.Paused:
			text += " (Paused)"
		case s.Health != nil && s.Health.Status == "starting":
			text += " (health: starting)"
		case s.Health != nil:
			text += " (" + s.Health.Status + ")"
		}
		return text
	case s.FinishedAt.IsZero():
		return "Created"
	}
	return "Exited (" + strconv.Itoa(s.ExitCode) + ") " + units.HumanDuration(now.Sub(s.FinishedAt)) + " ago"
}

func portSummaries(rec runner.Record) []container.PortSummary {
	out := []container.PortSummary{}
	shown := map[string]bool{}
	for _, p := range rec.Published() {
		out = append(out, container.PortSummary{
			IP: anyAddr(p.HostIP), PrivatePort: p.ContainerPort, PublicPort: p.HostPort, Type: p.Proto,
		})
		shown[strconv.Itoa(int(p.ContainerPort))+"/"+p.Proto] = true
	}
	if !rec.State.Running {
		return out
	}
	for key := range rec.Config.ExposedPorts {
		p, err := network.ParsePort(key)
		if err == nil && !shown[p.String()] {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type))
	})
	return out
}

// untilOf reads prune's "until": a time, or how long ago.
func untilOf(f filters) (until time.Time, err error) {
	for _, v := range f.values("until") {
		if until, err = moment(v); err != nil {
			return until, err
		}
	}
	return until, nil
}
