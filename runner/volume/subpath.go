package volume

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/runner/spec"
)

// A part of a volume belongs to whoever uses the volume: a container may put a symlink to the host in its
// place at any moment between looking and mounting. So the part is opened anew at each start, from the
// volume's root and never out of it, and what was opened is mounted where only the daemon can change
// anything. That mount is runc's source, and goes when runc has copied it.

// openSubpath opens a file or directory inside a volume. A symlink that leads out of it is refused.
func openSubpath(volume, sub string) (*os.File, error) {
	dir, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: volume, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, sub, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	path := filepath.Join(volume, sub)
	switch { // in Docker's words
	case errors.Is(err, unix.EXDEV):
		return nil, fault.Invalid("path concatenation escapes the base directory, base: %s, subpath: %s", volume, sub)
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP):
		return nil, fault.Invalid("cannot access path %s: %v", path, err)
	case err != nil:
		return nil, fmt.Errorf("volume subpath %q: %w", sub, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(volume, sub)), nil
}

// Subpaths are the parts of volumes that are mounted for containers that start.
type Subpaths struct {
	Dir string // where; gone after a reboot
	Log *slog.Logger
}

// Mounts returns the mounts of a container for runc. release unmounts what was mounted for it, and is to be
// called, also after an error, when runc has made the container or is not going to.
func (s Subpaths) Mounts(id string, points []MountPoint) (mounts []spec.Mount, release func(), err error) {
	dir := filepath.Join(s.Dir, id)
	pinned := false
	release = func() {
		if pinned {
			if err := unpin(dir); err != nil {
				s.Log.Warn("unmounting a container's volume subpaths", "container", id, "error", err)
			}
		}
	}
	for i, p := range points {
		if p.Subpath != "" {
			pinned = true
			if p.Mount, err = pinPoint(p, filepath.Join(dir, strconv.Itoa(i))); err != nil {
				return nil, release, err
			}
		}
		mounts = append(mounts, p.Mount)
	}
	return mounts, release, nil
}

// pinPoint mounts a part of a volume or image at target, and returns the container's mount of that. An image is mounted
// for it as a whole beside the target; the part keeps what it needs of that.
func pinPoint(p MountPoint, target string) (m spec.Mount, err error) {
	m = p.Mount
	whole := p.Source
	if p.Type == "image" {
		whole = target + "-whole"
		if err := state.Private(whole); err != nil {
			return m, err
		}
		image := mount.Mount{Type: m.Type, Source: m.Source, Options: m.Options}
		if m.Type == "bind" {
			image.Options = []string{"rbind", "ro"}
		}
		if err := image.Mount(whole); err != nil {
			return m, fmt.Errorf("mounting image %s: %w", p.Source, err)
		}
		m = spec.Mount{Type: "bind", ReadOnly: true, Target: m.Target}
	}
	m.Source, err = pin(whole, p.Subpath, target)
	return m, err
}

// pin mounts a part of a volume at target, which it makes.
func pin(volume, sub, target string) (string, error) {
	f, err := openSubpath(volume, sub)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if err := state.Private(filepath.Dir(target)); err != nil {
		return "", err
	}
	if st.IsDir() {
		err = os.Mkdir(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("volume subpath %q: mounting it at %s: %w", sub, target, err)
	}
	return target, nil
}

// unpin unmounts what pin has mounted below dir, and removes dir. What is mounted is never deleted.
func unpin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		target := filepath.Join(dir, e.Name())
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, &os.PathError{Op: "unmount", Path: target, Err: err})
			continue
		}
		errs = append(errs, os.Remove(target))
	}
	return errors.Join(append(errs, err, os.Remove(dir))...)
}

// Sweep takes away what a killed daemon has left mounted.
func (s Subpaths) Sweep() {
	dirs, _ := os.ReadDir(s.Dir)
	for _, d := range dirs {
		if err := unpin(filepath.Join(s.Dir, d.Name())); err != nil {
			s.Log.Warn("unmounting volume subpaths", "error", err)
		}
	}
}
