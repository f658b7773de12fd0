package command

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// chrootMark is set in a daemon that was in a chroot.
const chrootMark = "_GANTRY_UNCHROOTED"

// leaveChroot makes the directory that this process is chrooted to the root of a mount namespace of
// its own, and starts the process again there. A chrooted process may not make user namespaces
// (kernel/user_namespace.c, create_user_ns), and runc pivots only away from the root of a mount. It
// does nothing elsewhere.
func leaveChroot() error {
	if os.Getenv(chrootMark) != "" || !chrooted() {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the namespace belongs to the thread, and execve keeps this one
	if err := pivotToRoot(); err != nil {
		return fmt.Errorf("leaving the chroot: %w", err)
	}
	return unix.Exec(self, os.Args, append(os.Environ(), chrootMark+"=1"))
}

// chrooted says whether there is something above the root, by going there with one thread.
func chrooted() bool {
	found := make(chan bool, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var here, there unix.Stat_t
		found <- unix.Unshare(unix.CLONE_FS) == nil && unix.Stat("/", &here) == nil &&
			toRealRoot() == nil && unix.Stat("/", &there) == nil &&
			(here.Dev != there.Dev || here.Ino != there.Ino)
	}()
	return <-found
}

func pivotToRoot() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := toRealRoot(); err != nil {
		return err
	}
	// Named from outside, the chroot's directory has a path again.
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", old))
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "") },
		func() error { return unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, "") },
		func() error { return unix.Chdir(dir) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// toRealRoot climbs out: ".." ends at a process's root, which a second chroot moves below us.
func toRealRoot() error {
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Chroot("/proc"); err != nil {
		return err
	}
	for range 64 {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	return unix.Chroot(".")
}
