// Package rootfs looks into containers' root file systems as their processes see them: with their volumes, and without a
// way out. What is in a container is its user's, who may put a symlink to anywhere in any place at any moment; so all
// that is done there is done by a thread whose root is the container's.
package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// Running calls f on a thread whose root is that of a process. Files that f opens can be used outside.
func Running(pid int, f func() error) error {
	return onThread(unix.CLONE_FS, func() error {
		if err := enter(fmt.Sprintf("/proc/%d/root", pid)); err != nil {
			return err
		}
		return f()
	})
}

// Volume is what a container that does not run has at a place of its own.
type Volume struct {
	Source, Destination string
	ReadOnly            bool
}

// Stopped calls f on a thread whose root is the mounted root file system of a container that does not run, with its
// volumes. The mounts are the thread's alone, and end with f.
func Stopped(mounts []mount.Mount, volumes []Volume, f func() error) error {
	dir, err := os.MkdirTemp("", "gantry-rootfs-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	return onThread(unix.CLONE_FS|unix.CLONE_NEWNS, func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("making a mount namespace private: %w", err)
		}
		if err := mount.All(mounts, dir); err != nil {
			return fmt.Errorf("mounting a container's root file system: %w", err)
		}
		for _, v := range volumes {
			if err := v.mount(dir); err != nil {
				return err
			}
		}
		if err := enter(dir); err != nil {
			return err
		}
		return f()
	})
}

func (v Volume) mount(root string) error {
	source, err := os.Stat(v.Source)
	if err != nil {
		return err
	}
	target, err := fs.RootPath(root, v.Destination)
	if err != nil {
		return err
	}
	if source.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err == nil {
		err = unix.Mount(v.Source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("mounting %s at %s: %w", v.Source, v.Destination, err)
	}
	return nil
}

// enter makes a directory the thread's root.
func enter(dir string) error {
	err := unix.Chdir(dir)
	if err == nil {
		err = unix.Chroot(".")
	}
	if err != nil {
		return fmt.Errorf("entering a container's root file system: %w", err)
	}
	return nil
}

// onThread calls f on a thread that shares no root with others, and ends it.
func onThread(flags int, f func() error) error {
	done := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread can't end: another one, while this is kept busy
			other := make(chan struct{})
			go func() { defer close(other); run() }()
			<-other
			runtime.UnlockOSThread()
			return
		}
		// Locked for ever: the thread ends with the goroutine.
		if err := unix.Unshare(flags); err != nil {
			done <- fmt.Errorf("parting a thread from the daemon's root: %w", err)
			return
		}
		done <- f()
	}
	go run()
	return <-done
}
