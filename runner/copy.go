package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/go-archive"
	"github.com/moby/sys/symlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/internal/tarball"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/rootfs"
)

// PathStat describes a file in a container (Engine API: ContainerPathStat).
type PathStat struct {
	Name       string
	Size       int64
	Mode       os.FileMode
	Mtime      time.Time
	LinkTarget string // of a symlink, in the container
}

// inside calls f with the container's root file system as the root of its thread: as the processes of a container that
// runs see it, and with its volumes of one that does not, which is not started meanwhile.
func (m *Manager) inside(ctx context.Context, c *container, f func() error) error {
	if pid := c.pid(); pid != 0 {
		return rootfs.Running(pid, f)
	}
	c.op.Lock()
	defer c.op.Unlock()
	if pid := c.pid(); pid != 0 {
		return rootfs.Running(pid, f)
	}
	rec := c.record()
	mounts, err := m.client.SnapshotService(cache.Snapshotter).Mounts(cache.WithNamespace(ctx), c.id)
	if err != nil {
		return fmt.Errorf("root file system of container %s: %w", c.id, err)
	}
	if err := m.useVolumes(rec); err != nil {
		return err
	}
	defer m.disuseVolumes(rec)
	var volumes []rootfs.Volume
	for _, p := range rec.Mounts {
		if (p.Type == "bind" || p.Type == "volume") && p.Subpath == "" {
			volumes = append(volumes, rootfs.Volume{Source: p.Source, Destination: p.Destination})
		}
	}
	return rootfs.Stopped(mounts, volumes, f)
}

// pid is the process of a container that runs; 0 without it.
func (c *container) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil {
		return 0
	}
	return int(c.run.task.Pid())
}

// missing is Docker's error for a path that is not there.
func missing(err error, path, container string) error {
	if errors.Is(err, os.ErrNotExist) {
		return fault.NotFound("Could not find the file %s in container %s", path, container)
	}
	return err
}

// StatPath describes a path in a container. errdefs.ErrNotFound when it is not there.
func (m *Manager) StatPath(ctx context.Context, ref, path string) (st PathStat, err error) {
	c, err := m.find(ref)
	if err != nil {
		return st, err
	}
	err = m.inside(ctx, c, func() (err error) {
		st, err = statPath(absolute(path))
		return err
	})
	return st, missing(err, path, ref)
}

// absolute is a path from the root, which keeps the slash or dot at its end: they ask for what a symlink leads to.
func absolute(path string) string {
	return archive.PreserveTrailingDotOrSeparator(filepath.Join("/", path), path)
}

func statPath(path string) (st PathStat, err error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return st, err
	}
	st = PathStat{Name: filepath.Base(path), Size: fi.Size(), Mode: fi.Mode(), Mtime: fi.ModTime()}
	if fi.Mode()&os.ModeSymlink != 0 {
		st.LinkTarget, err = symlink.FollowSymlinkInScope(path, "/")
	}
	return st, err
}

// Archive writes a path of a container as a tar, whose entries begin with the path's last part. begin is called before
// with what is there, and gives what is written to. errdefs.ErrNotFound when the path is not there.
func (m *Manager) Archive(ctx context.Context, ref, path string, begin func(PathStat) io.Writer) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	err = m.inside(ctx, c, func() error {
		abs := absolute(path)
		st, err := statPath(abs)
		if err != nil {
			return err
		}
		dir, base := abs, "."
		if !st.Mode.IsDir() {
			dir, base = filepath.Split(abs)
		}
		tar, err := archive.NewTarballer(dir, archive.TarResourceRebaseOpts(base, filepath.Base(abs)))
		if err != nil {
			return err
		}
		w := begin(st)
		copied := make(chan error, 1)
		go func() {
			_, err := io.Copy(w, tar.Reader())
			copied <- errors.Join(err, tar.Reader().Close()) // else Do waits for ever when the client has gone
		}()
		tar.Do()
		return <-copied
	})
	if err == nil {
		m.emit(c.record(), "archive-path")
	}
	return missing(err, path, ref)
}

// ExtractOptions say how an archive is unpacked into a container.
type ExtractOptions struct {
	KeepKinds bool // a directory does not become a file, nor a file a directory
	Own       bool // what is unpacked belongs to the container's user
}

// Extract unpacks a tar, compressed or not, into a directory of a container. Errors: errdefs.ErrNotFound when there is no
// such path, ErrInvalidArgument when it is no directory, and ErrPermissionDenied when it is not to be written to.
func (m *Manager) Extract(ctx context.Context, ref, path string, o ExtractOptions, r io.Reader) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	plain, err := compressed.Open(r)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	defer plain.Close()
	fits := tarball.Fits(plain, m.o.Root)
	defer fits.Close()
	opts, release, err := archive.WithProcSelfFD(&archive.TarOptions{NoOverwriteDirNonDir: o.KeepKinds})
	if err != nil {
		return err
	}
	defer release()
	rec := c.record()
	err = m.inside(ctx, c, func() error {
		abs, err := filepath.EvalSymlinks(filepath.Join("/", path))
		if err != nil {
			return err
		}
		fi, err := os.Lstat(abs)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return fault.Invalid("extraction point is not a directory")
		}
		if err := writable(rec, abs); err != nil {
			return err
		}
		if o.Own && rec.Config.User != "" {
			u, err := lookup.User("/", rec.Config.User, nil)
			if err != nil {
				return err
			}
			opts.ChownOpts = &archive.ChownOpts{UID: int(u.UID), GID: int(u.GID)}
		}
		return archiveFault(archive.UntarUncompressed(fits, abs, opts))
	})
	if err == nil {
		m.emit(rec, "extract-to-dir")
	}
	return missing(err, path, ref)
}

// archiveFault makes what is wrong with an archive its sender's fault; a disk that is full or broken is not.
func archiveFault(err error) error {
	if err == nil || errdefs.IsInvalidArgument(err) {
		return err
	}
	for _, ours := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS} {
		if errors.Is(err, ours) {
			return err
		}
	}
	return fault.Invalid("the archive can't be unpacked: %v", err)
}

// writable refuses what a container has for reading only, in Docker's words.
func writable(rec Record, path string) error {
	longest, ro := "", rec.HostConfig.ReadonlyRootfs
	for _, p := range rec.Mounts {
		below := path == p.Destination || strings.HasPrefix(path, strings.TrimSuffix(p.Destination, "/")+"/")
		if below && len(p.Destination) > len(longest) {
			longest, ro = p.Destination, !p.RW
		}
	}
	switch {
	case ro && longest != "":
		return fault.Invalid("mounted volume is marked read-only")
	case ro:
		return fault.Invalid("container rootfs is marked read-only")
	}
	return nil
}
