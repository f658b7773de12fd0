// Package resident keeps what a process has in memory near to what it uses. A Go program with many libraries touches most
// of its own file as they are initialised, and never again; the kernel counts that to the process and keeps it for as long
// as it is mapped.
package resident

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Release gives back the heap's free pages, and unmaps the pages of the program's own file, but for what of it was written
// to. Those that are used again come back from the page cache, one fault for each 64 KiB; the others the kernel may forget
// when it needs room. It takes some milliseconds; other goroutines go on.
func Release() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	all, err := parse(maps)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.path == program && !m.written && m.permissions[1] != 'w' {
			err = errors.Join(err, m.unmapPages())
		}
	}
	return err
}

// mapping is one of proc_pid_smaps(5).
type mapping struct {
	begin, end  uintptr
	permissions string
	path        string
	written     bool // pages of it are no longer the file's, as where addresses were relocated
}

func parse(smaps io.Reader) (all []mapping, err error) {
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 2:
		case fields[0] == "Anonymous:" && len(all) > 0:
			all[len(all)-1].written = fields[1] != "0"
		case !strings.HasSuffix(fields[0], ":"):
			m, err := parseMapping(fields)
			if err != nil {
				return nil, err
			}
			all = append(all, m)
		}
	}
	return all, lines.Err()
}

func parseMapping(fields []string) (mapping, error) {
	begin, end, _ := strings.Cut(fields[0], "-")
	b, berr := strconv.ParseUint(begin, 16, 64)
	e, eerr := strconv.ParseUint(end, 16, 64)
	if berr != nil || eerr != nil || len(fields) < 5 || len(fields[1]) != 4 {
		return mapping{}, fmt.Errorf("/proc/self/smaps: %q is no mapping", strings.Join(fields, " "))
	}
	return mapping{
		begin: uintptr(b), end: uintptr(e), permissions: fields[1],
		path: strings.Join(fields[5:], " "), written: true, // until it is known
	}, nil
}

// unmapPages has the pages of a mapping come from its file the next time (madvise(2)).
func (m mapping) unmapPages() error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_DONTNEED)
	if errno != 0 {
		return fmt.Errorf("madvise of %s: %w", m.path, errno)
	}
	return nil
}
