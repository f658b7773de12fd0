package runner

import (
	"slices"
	"strings"

	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/volume"
)

// CreateVolume returns the volume of that name, making it when it is not there. An empty name makes
// an anonymous one.
func (m *Manager) CreateVolume(name string, labels map[string]string) (volume.Volume, error) {
	if name == "" {
		return m.volumes.Ensure(volume.Volume{Name: stringid.GenerateRandomID(), Labels: labels, Anonymous: true})
	}
	return m.volumes.Ensure(volume.Volume{Name: name, Labels: labels})
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
	if users := m.volumeUsers(name); len(users) > 0 {
		return fault.Conflict("remove %s: volume is in use - [%s]", name, strings.Join(users, ", "))
	}
	return m.volumes.Remove(name)
}

func (m *Manager) volumeUsers(name string) []string {
	var users []string
	for _, r := range m.List() {
		if slices.ContainsFunc(r.Mounts, func(p volume.MountPoint) bool { return p.Name == name }) {
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
		if users := m.volumeUsers(p.Name); len(users) > 0 && !slices.Equal(users, []string{rec.ID}) {
			continue
		}
		if err := m.volumes.Remove(p.Name); err != nil {
			m.log.Warn("removing an anonymous volume", "volume", p.Name, "error", err)
		}
	}
}

// mountsOf are the mounts of another container.
func (m *Manager) mountsOf(ref string) ([]volume.MountPoint, error) {
	rec, err := m.Get(ref)
	return rec.Mounts, err
}
