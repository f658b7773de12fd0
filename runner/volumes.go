package runner

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/volume"
)

// CreateVolume returns the volume of that name, making it as want says when it is not there. An empty name makes
// an anonymous one.
func (m *Manager) CreateVolume(want volume.Volume) (volume.Volume, error) {
	if want.Name == "" {
		want.Name, want.Anonymous = stringid.GenerateRandomID(), true
	}
	v, isNew, err := m.volumes.Ensure(want)
	if isNew && err == nil {
		m.emitVolume("create", v.Name)
	}
	return v, err
}

// Volume returns one volume; errdefs.ErrNotFound without it.
func (m *Manager) Volume(name string) (volume.Volume, error) { return m.volumes.Get(name) }

// Volumes returns all volumes, by name.
func (m *Manager) Volumes() ([]volume.Volume, error) { return m.volumes.List() }

// RemoveVolume deletes a volume and its data. errdefs.ErrConflict while a container refers to it.
func (m *Manager) RemoveVolume(name string) error {
	if _, err := m.volumes.Get(name); err != nil {
		return err
	}
	if users := m.VolumeUsers(name); len(users) > 0 {
		return fault.Conflict("remove %s: volume is in use - [%s]", name, strings.Join(users, ", "))
	}
	return m.removeVolume(name)
}

func (m *Manager) removeVolume(name string) error {
	if err := m.volumes.Remove(name); err != nil {
		return err
	}
	m.emitVolume("destroy", name)
	return nil
}

// VolumeUsers names the containers that refer to a volume, running or not.
func (m *Manager) VolumeUsers(name string) (users []string) {
	for _, r := range m.List() {
		if slices.ContainsFunc(r.Mounts, func(p volume.MountPoint) bool { return p.Type == "volume" && p.Name == name }) {
			users = append(users, r.ID)
		}
	}
	return users
}

// dropVolumes removes a container's anonymous volumes that no other container uses.
func (m *Manager) dropVolumes(rec Record) {
	for _, p := range rec.Mounts {
		if !p.Anonymous {
			continue
		}
		if users := m.VolumeUsers(p.Name); len(users) > 0 && !slices.Equal(users, []string{rec.ID}) {
			continue
		}
		if err := m.removeVolume(p.Name); err != nil {
			m.log.Warn("removing an anonymous volume", "volume", p.Name, "error", err)
		}
	}
}

// useVolumes mounts what a container's volumes are, for a run of it. After an error none is used.
func (m *Manager) useVolumes(rec Record) error {
	for _, p := range rec.Mounts {
		if p.Type != "volume" {
			continue
		}
		if err := m.volumes.Use(p.Name, rec.ID); err != nil {
			m.disuseVolumes(rec)
			return err
		}
	}
	return nil
}

// disuseVolumes is the reverse of useVolumes; a second time it does nothing.
func (m *Manager) disuseVolumes(rec Record) {
	for _, p := range rec.Mounts {
		if p.Type != "volume" {
			continue
		}
		if err := m.volumes.Disuse(p.Name, rec.ID); err != nil {
			m.log.Warn("unmounting a volume", "volume", p.Name, "error", err)
		}
	}
}

// emitMounts tells that a container's volumes are mounted or unmounted.
func (m *Manager) emitMounts(rec Record, action string) {
	for _, p := range rec.Mounts {
		if p.Type != "volume" {
			continue
		}
		attrs := []string{"container", rec.ID}
		if action == "mount" {
			attrs = append(attrs, "destination", p.Destination, "read/write", strconv.FormatBool(p.RW), "propagation", p.Propagation)
		}
		m.emitVolume(action, p.Name, attrs...)
	}
}

// emitVolume publishes an event of a volume, with Docker's attributes.
func (m *Manager) emitVolume(action, name string, extra ...string) {
	attrs := map[string]string{"driver": volume.Driver}
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	m.Publish(Event{Type: "volume", Action: action, ID: name, Attributes: attrs})
}

// mountsOf are the mounts of another container.
func (m *Manager) mountsOf(ref string) ([]volume.MountPoint, error) {
	rec, err := m.Get(ref)
	return rec.Mounts, err
}

// imageOf returns how an image becomes a mount of the container id, n-th of those that it has.
func (m *Manager) imageOf(ctx context.Context, id string) func(ref string) (spec.Mount, string, error) {
	n := 0
	return func(ref string) (spec.Mount, string, error) {
		img, err := m.store.Open(ctx, ref, nil)
		if err != nil {
			return spec.Mount{}, "", fault.Invalid("%v", err) // not a 404: docker run would pull the container's image
		}
		// Its name ties the view to the container, whose removal takes it away.
		mounts, err := m.client.SnapshotService(cache.Snapshotter).View(ctx, viewOf(id, n), img.Snapshot,
			snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}))
		if err != nil {
			return spec.Mount{}, "", fmt.Errorf("root file system of image %s: %w", ref, err)
		}
		n++
		if len(mounts) != 1 {
			return spec.Mount{}, "", fmt.Errorf("image %s is %d mounts: %w", ref, len(mounts), errdefs.ErrInternal)
		}
		if mounts[0].Type == "bind" {
			return spec.Mount{Type: "bind", Source: mounts[0].Source, ReadOnly: true}, img.Target.Digest.String(), nil
		}
		return spec.Mount{Type: mounts[0].Type, Source: mounts[0].Source, Options: mounts[0].Options}, img.Target.Digest.String(), nil
	}
}

func viewOf(id string, n int) string { return fmt.Sprintf("%s-image-%d", id, n) }

// dropViews removes what imageOf has made for a container.
func (m *Manager) dropViews(ctx context.Context, id string) error {
	for n := 0; ; n++ {
		err := m.client.SnapshotService(cache.Snapshotter).Remove(ctx, viewOf(id, n))
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
