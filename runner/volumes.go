package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/continuity/fs"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/state"
)

// Volume is a directory that outlives containers: <root>/volumes/<name>/_data.
type Volume struct {
	Name      string
	Labels    map[string]string `json:",omitempty"`
	Created   time.Time
	Anonymous bool   `json:",omitempty"`
	Path      string `json:"-"` // the data
}

// volumes are the volumes of one data root.
type volumes struct {
	dir string
	mu  sync.Mutex
}

// ensure returns the volume, making it when it is not there.
func (v *volumes) ensure(want Volume) (Volume, error) {
	if !validName.MatchString(want.Name) {
		return want, fault.Invalid("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", want.Name)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if have, err := v.read(want.Name); err == nil || !errors.Is(err, os.ErrNotExist) {
		return have, err
	}
	want.Created = time.Now().UTC()
	want.Path = filepath.Join(v.dir, want.Name, "_data")
	if err := os.MkdirAll(want.Path, 0o755); err != nil {
		return want, fmt.Errorf("volume %s: %w", want.Name, err)
	}
	data, err := json.Marshal(want)
	if err == nil {
		err = state.Write(filepath.Join(v.dir, want.Name, "volume.json"), data, 0o600)
	}
	if err != nil {
		return want, fmt.Errorf("volume %s: %w", want.Name, err)
	}
	return want, nil
}

func (v *volumes) read(name string) (Volume, error) {
	var vol Volume
	data, err := os.ReadFile(filepath.Join(v.dir, name, "volume.json"))
	if err != nil {
		return vol, err
	}
	if err := json.Unmarshal(data, &vol); err != nil {
		return vol, fmt.Errorf("volume %s: %w", name, err)
	}
	vol.Path = filepath.Join(v.dir, name, "_data")
	return vol, nil
}

func (v *volumes) remove(name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return os.RemoveAll(filepath.Join(v.dir, name))
}

// CreateVolume returns the volume of that name, making it when it is not there. An empty name makes
// an anonymous one.
func (m *Manager) CreateVolume(name string, labels map[string]string) (Volume, error) {
	if name == "" {
		return m.volumes.ensure(Volume{Name: newID(), Labels: labels, Anonymous: true})
	}
	return m.volumes.ensure(Volume{Name: name, Labels: labels})
}

// Volume returns one volume; errdefs.ErrNotFound without it.
func (m *Manager) Volume(name string) (Volume, error) {
	if validName.MatchString(name) {
		vol, err := m.volumes.read(name)
		if !errors.Is(err, os.ErrNotExist) {
			return vol, err
		}
	}
	return Volume{}, fault.NotFound("get %s: no such volume", name)
}

// Volumes returns all volumes, by name.
func (m *Manager) Volumes() ([]Volume, error) {
	entries, err := os.ReadDir(m.volumes.dir)
	if err != nil {
		return nil, err
	}
	var list []Volume
	for _, e := range entries {
		vol, err := m.volumes.read(e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // being made, or being removed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, vol)
	}
	return list, nil
}

// RemoveVolume deletes a volume and its data. errdefs.ErrConflict while a container refers to it.
func (m *Manager) RemoveVolume(name string) error {
	if _, err := m.Volume(name); err != nil {
		return err
	}
	if users := m.volumeUsers(name); len(users) > 0 {
		return fault.Conflict("remove %s: volume is in use - [%s]", name, strings.Join(users, ", "))
	}
	return m.volumes.remove(name)
}

func (m *Manager) volumeUsers(name string) []string {
	var users []string
	for _, r := range m.List() {
		if slices.ContainsFunc(r.Mounts, func(p MountPoint) bool { return p.Name == name }) {
			users = append(users, r.ID)
		}
	}
	return users
}

// dropVolumes removes a container's anonymous volumes that no other container uses.
func (m *Manager) dropVolumes(rec Record, drop bool) {
	for _, p := range rec.Mounts {
		if !drop || !p.Anonymous {
			continue
		}
		if users := m.volumeUsers(p.Name); len(users) > 0 && !slices.Equal(users, []string{rec.ID}) {
			continue
		}
		if err := m.volumes.remove(p.Name); err != nil {
			m.log.Warn("removing an anonymous volume", "volume", p.Name, "error", err)
		}
	}
}

// fillVolumes copies what the image has at a volume's place into the volume, when that is empty.
func (m *Manager) fillVolumes(ctx context.Context, rec Record) error {
	var fresh []MountPoint
	for _, p := range rec.Mounts {
		if p.Type != "volume" || nocopy(p) {
			continue
		}
		if entries, err := os.ReadDir(p.Source); err == nil && len(entries) == 0 {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return m.withRootfs(ctx, rec.ID, func(root string) error {
		for _, p := range fresh {
			if err := fillVolume(root, p); err != nil {
				return fmt.Errorf("filling volume %s from %s in the image: %w", p.Name, p.Destination, err)
			}
		}
		return nil
	})
}

func nocopy(p MountPoint) bool { return slices.Contains(strings.Split(p.Mode, ","), "nocopy") }

func fillVolume(root string, p MountPoint) error {
	src, err := fs.RootPath(root, p.Destination)
	if err != nil {
		return err
	}
	if st, err := os.Stat(src); err != nil || !st.IsDir() {
		return nil // nothing there to copy
	}
	return fs.CopyDir(p.Source, src)
}
