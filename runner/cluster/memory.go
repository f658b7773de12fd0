package cluster

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/state"
)

// inMemory makes a directory of which nothing gets to a disk. One that is there keeps what is in it: containers use it.
func inMemory(dir string) error {
	if err := state.Private(dir); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	kind := uint32(fs.Type) // which is 32 bits wide on some machines, and 64 on others
	if kind == unix.RAMFS_MAGIC || kind == unix.TMPFS_MAGIC && noSwap(dir) {
		return nil
	}
	return mountMemory(dir)
}

// noSwap tells whether dir is a mount of its own: a tmpfs of the system's may be swapped out.
func noSwap(dir string) bool {
	var own, above unix.Stat_t
	return unix.Stat(dir, &own) == nil && unix.Stat(dir+"/..", &above) == nil && own.Dev != above.Dev
}

func mountMemory(dir string) error {
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0711,noswap")
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4
		err = unix.Mount("ramfs", dir, "ramfs", flags, "mode=0711")
	}
	return err
}

// forget takes such a directory away.
func forget(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(dir))
}
