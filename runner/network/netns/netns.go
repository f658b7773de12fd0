// Package netns runs code in other network namespaces than the process's own.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Enter moves the calling thread, which is locked by OnThread, into a namespace.
func Enter(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	return nil
}

// Do calls f in a namespace; sockets that f opens stay there.
func Do(ns *os.File, f func() error) error {
	return OnThread(func() error {
		if err := Enter(ns); err != nil {
			return err
		}
		return f()
	})
}

// OnThread calls f on a thread that may leave the process's network namespace, and brings it back. Go ends a thread
// that stays away with its goroutine, but not the main one, which /proc/self is about.
func OnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
		done <- err
	}()
	return <-done
}
