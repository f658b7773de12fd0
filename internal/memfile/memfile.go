// Package memfile makes files in memory from which programs start: no directory is sure to be writable and
// without noexec.
package memfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// New makes an empty file whose content may be executed by [Path], by children too when inherit is set. name
// is what /proc shows. See memfd_create(2).
func New(name string, inherit bool) (*os.File, error) {
	flags := 0
	if !inherit {
		flags = unix.MFD_CLOEXEC
	}
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every one is executable
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Path is good while f is open.
func Path(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
