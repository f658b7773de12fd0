package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/continuity/fs"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/runner/rootfs"
	"github.com/gantry-build/gantry/runner/volume"
)

// Change is a file that a container has of its own.
type Change struct {
	Path string
	Kind fs.ChangeKind
}

// Changes lists what a container has changed in its image's file system, by path. What is mounted there by the runtime
// is left out, and so are directories of which only the times have changed, if nothing in them has.
func (m *Manager) Changes(ctx context.Context, ref string) (all []Change, err error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	ctx = cache.WithNamespace(ctx)
	sn := m.client.SnapshotService(cache.Snapshotter)
	mounts, err := sn.Mounts(ctx, c.id)
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", c.id, err)
	}
	upper, lower, err := layersOf(mounts)
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", c.id, err)
	}
	rec := c.record()
	same := map[string]bool{} // directories that are themselves as they were
	err = mount.WithReadonlyTempMount(ctx, lower, func(base string) error {
		note := func(kind fs.ChangeKind, path string, fi os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			if path == "/" || mounted(rec, path) {
				return nil
			}
			same[path] = kind == fs.ChangeKindModify && untouched(filepath.Join(base, path), fi)
			all = append(all, Change{path, kind})
			return nil
		}
		return fs.DiffDirChanges(ctx, base, upper, fs.DiffSourceOverlayFS, note)
	})
	slices.SortFunc(all, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return slices.DeleteFunc(all, func(c Change) bool {
		return same[c.Path] && !slices.ContainsFunc(all, func(o Change) bool {
			return strings.HasPrefix(o.Path, c.Path+"/") && !same[o.Path]
		})
	}), err
}

// layersOf takes an overlay apart: the directory of what has changed, and the mounts without it.
func layersOf(mounts []mount.Mount) (upper string, lower []mount.Mount, err error) {
	if len(mounts) != 1 {
		return "", nil, fmt.Errorf("the root file system is %d mounts", len(mounts))
	}
	m := mounts[0]
	if m.Type == "bind" { // of an image without layers
		return m.Source, nil, errors.New("the image has no layers to compare with")
	}
	var dirs string
	for _, o := range m.Options {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = v
		}
		if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			dirs = v
		}
	}
	if upper == "" || dirs == "" {
		return "", nil, fmt.Errorf("the root file system is no overlay that can be written: %v", m.Options)
	}
	if !strings.Contains(dirs, ":") {
		return upper, []mount.Mount{{Type: "bind", Source: dirs, Options: []string{"rbind", "ro"}}}, nil
	}
	return upper, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + dirs}}}, nil
}

// mounted says whether the runtime has made a path, to mount something there.
func mounted(rec Record, path string) bool {
	for _, p := range []string{"/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return slices.ContainsFunc(rec.Mounts, func(p volume.MountPoint) bool { return path == p.Destination })
}

// untouched says whether a directory is as it was, but for its times.
func untouched(before string, now os.FileInfo) bool {
	was, err := os.Lstat(before)
	if err != nil || !now.IsDir() || was.Mode() != now.Mode() {
		return false
	}
	a, okA := was.Sys().(*syscall.Stat_t)
	b, okB := now.Sys().(*syscall.Stat_t)
	return okA && okB && a.Uid == b.Uid && a.Gid == b.Gid
}

// Export writes a container's root file system as a tar, without volumes.
func (m *Manager) Export(ctx context.Context, ref string, w io.Writer) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	mounts, release, err := m.own(cache.WithNamespace(ctx), c)
	if err != nil {
		return fmt.Errorf("exporting container %s: %w", c.id, err)
	}
	defer release()
	err = rootfs.Stopped(mounts, nil, func() error { return archive.WriteDiff(ctx, w, "", "/") })
	if err != nil {
		return fmt.Errorf("exporting container %s: %w", c.id, err)
	}
	m.emit(c.record(), "export")
	return nil
}

// own are the mounts of a container's root file system, without what is mounted in it: while it runs, what it has mounted
// itself, as a second overlay over the same directories would be undefined (Documentation/filesystems/overlayfs.rst). It is
// not started until release.
func (m *Manager) own(ctx context.Context, c *container) (mounts []mount.Mount, release func(), err error) {
	c.op.Lock()
	if c.pid() != 0 {
		return []mount.Mount{{Type: "bind", Source: m.o.Store.Rootfs(c.id), Options: []string{"bind", "ro"}}}, c.op.Unlock, nil
	}
	mounts, err = m.client.SnapshotService(cache.Snapshotter).Mounts(ctx, c.id)
	if err != nil {
		c.op.Unlock()
		return nil, nil, err
	}
	return mounts, c.op.Unlock, nil
}
