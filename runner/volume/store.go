// Package volume keeps the volumes of a data root, and turns what a container asks for, binds, volumes and
// tmpfs, into mounts: -v, --mount, --tmpfs, --volumes-from and the image's own volumes.
package volume

import (
	"cmp"
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
	"github.com/gantry-build/gantry/runner/spec"
)

// Volume is a directory that outlives containers: <root>/volumes/<name>/_data. With options, it is what they say,
// and mounted there while a container runs that uses it.
type Volume struct {
	Name      string
	Labels    map[string]string `json:",omitempty"`
	Options   map[string]string `json:",omitempty"` // of the driver: type, device, o
	Created   time.Time
	Anonymous bool   `json:",omitempty"`
	Path      string `json:"-"` // the data
}

// MountPoint is one mount of a container, as shown to users and as given to the runtime.
type MountPoint struct {
	Type        string // bind, volume, tmpfs, image
	Name        string `json:",omitempty"` // of the volume
	Source      string `json:",omitempty"`
	Destination string
	Mode        string `json:",omitempty"` // options as the user wrote them
	RW          bool
	Propagation string     `json:",omitempty"`
	Subpath     string     `json:",omitempty"` // of the volume, looked up at each start
	ImageID     string     `json:",omitempty"` // of an image that is mounted
	NoCopy      bool       `json:",omitempty"` // it is not filled with what the image has there
	Anonymous   bool       `json:",omitempty"` // the volume belongs to the container
	IsNew       bool       `json:"-"`          // the volume was made for this
	Mount       spec.Mount // for the runtime
}

// Store is the volumes of one data root. It is safe for concurrent use.
type Store struct {
	dir   string
	root  string                     // the data root, of which it is a part
	mu    sync.Mutex                 // held by whoever changes what is on the disk
	users map[string]map[string]bool // of volumes that are mounted, by name; guarded by mu
}

// Open returns the volumes below dir, which is made private.
func Open(dir string) (*Store, error) {
	return &Store{dir: dir, root: filepath.Dir(dir), users: map[string]map[string]bool{}}, state.Private(dir)
}

// Ensure returns the volume, making it when it is not there, and whether it has made it. A name or options that no
// volume can have are an errdefs.ErrInvalidArgument.
func (s *Store) Ensure(want Volume) (_ Volume, isNew bool, err error) {
	if len(want.Name) == 1 {
		return want, false, fault.Invalid("volume name is too short, names should be at least two alphanumeric characters")
	}
	if !spec.ValidName(want.Name) {
		return want, false, fault.Invalid("create %s: %q includes invalid characters for a local volume name, only "+
			"\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", want.Name, want.Name)
	}
	if err := checkOptions(want.Options); err != nil {
		return want, false, fmt.Errorf("create %s: %w", want.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, err := s.read(want.Name); err == nil || !errors.Is(err, os.ErrNotExist) {
		return have, false, err
	}
	want.Created = time.Now().UTC()
	want.Path = s.data(want.Name)
	if err := os.MkdirAll(want.Path, 0o755); err != nil {
		return want, false, fmt.Errorf("volume %s: %w", want.Name, err)
	}
	data, err := json.Marshal(want)
	if err == nil {
		err = state.Write(filepath.Join(s.dir, want.Name, "volume.json"), data, 0o600)
	}
	if err != nil {
		return want, false, fmt.Errorf("volume %s: %w", want.Name, err)
	}
	return want, true, nil
}

func (s *Store) read(name string) (Volume, error) {
	var vol Volume
	data, err := os.ReadFile(filepath.Join(s.dir, name, "volume.json"))
	if err != nil {
		return vol, err
	}
	if err := json.Unmarshal(data, &vol); err != nil {
		return vol, fmt.Errorf("volume %s: %w", name, err)
	}
	vol.Path = s.data(name)
	return vol, nil
}

func (s *Store) data(name string) string { return filepath.Join(s.dir, name, "_data") }

// Remove deletes a volume and its data. The caller has seen that nothing refers to it.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is mounted is never deleted.
	if err := s.unmount(name); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(s.dir, name))
}

// Get returns one volume; errdefs.ErrNotFound without it.
func (s *Store) Get(name string) (Volume, error) {
	if spec.ValidName(name) {
		vol, err := s.read(name)
		if !errors.Is(err, os.ErrNotExist) {
			return vol, err
		}
	}
	return Volume{}, fault.NotFound("get %s: no such volume", name)
}

// List returns all volumes, by name.
func (s *Store) List() ([]Volume, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var list []Volume
	for _, e := range entries {
		vol, err := s.read(e.Name())
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

// Fill copies what the image has at a volume's place into the volume, when that is empty. rootfs calls its
// argument with the image's root file system, and is called only when there is something to fill.
func Fill(points []MountPoint, rootfs func(func(root string) error) error) error {
	var fresh []MountPoint
	for _, p := range points {
		if p.Type != "volume" || nocopy(p) {
			continue
		}
		if empty(p) {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return rootfs(func(root string) error {
		for _, p := range fresh {
			if err := fill(root, p); err != nil {
				return fmt.Errorf("filling volume %s from %s in the image: %w", p.Name, p.Destination, err)
			}
		}
		return nil
	})
}

func nocopy(p MountPoint) bool {
	return p.NoCopy || slices.Contains(strings.Split(p.Mode, ","), "nocopy")
}

func fill(root string, p MountPoint) error {
	src, err := fs.RootPath(root, p.Destination)
	if err != nil {
		return err
	}
	if st, err := os.Stat(src); err != nil || !st.IsDir() {
		return nil // nothing there to copy
	}
	dst, err := openSubpath(p.Source, cmp.Or(p.Subpath, "."))
	if err != nil {
		return err
	}
	defer dst.Close()
	return fs.CopyDir(fmt.Sprintf("/proc/self/fd/%d/.", dst.Fd()), src) // the dot: the directory, not the link to it
}

// empty says whether a volume, or the part of it that is mounted, is a directory without entries.
func empty(p MountPoint) bool {
	dir, err := openSubpath(p.Source, cmp.Or(p.Subpath, "."))
	if err != nil {
		return false // its absence is the start's error
	}
	defer dir.Close()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	return err == nil && len(entries) == 0
}
