package registry

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// explainWrite says what to do about a root that cannot be written.
func explainWrite(root string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk of the registry's root %s is full; free space there or choose another root: %w", root, err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the registry cannot write to its root %s; run as its owner or choose another root: %w", root, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("a file lies where the registry's root %s should be; move it or choose another root: %w", root, err)
	}
	return fmt.Errorf("setting up the registry in %s: %w", root, err)
}

func explainListen(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is taken%s; stop that or choose another port with --addr: %w", addr, takenBy(addr), err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listening on %s needs root, as every port below 1024 does; choose another port with --addr: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is no address of this machine; give --addr one that it has, or :PORT for all: %w", addr, err)
	}
	return fmt.Errorf("listening on %q, which should be HOST:PORT or :PORT: %w", addr, err)
}

func takenBy(addr string) string {
	_, service, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return ""
	}
	pid, name, ok := holder(port)
	if !ok {
		return " by another process"
	}
	return fmt.Sprintf(" by %s (process %d)", name, pid)
}
