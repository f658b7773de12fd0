package solver

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/identity"
	"golang.org/x/sys/unix"
)

// limited says when its memory limit has killed a process of a step, in the step's log and in its error, of
// which "exit code: 137" tells no one that.
type limited struct{ executor.Executor }

// Run implements executor.Executor.
func (l limited) Run(
	ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{},
) (resourcestypes.Recorder, error) {
	limit := process.Meta.LinuxResources.GetMemory()
	if limit <= 0 || started != nil {
		return l.Executor.Run(ctx, id, root, mounts, process, started)
	}
	if id == "" {
		id = identity.NewID()
	}
	w := &memoryWatch{}
	running, ended := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { w.watch(id, running, ended) })
	rec, err := l.Executor.Run(ctx, id, root, mounts, process, running)
	close(ended)
	wg.Wait()
	if !w.killed.Load() {
		return rec, err
	}
	said := fmt.Sprintf("out of memory: a process was killed at the step's limit of %s; raise it with --memory",
		units.BytesSize(float64(limit)))
	if process.Stderr != nil {
		fmt.Fprintln(process.Stderr, said)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", said, err)
	}
	return rec, err
}

// memoryWatch learns of kills from the kernel while they happen: the cgroup goes with its container.
type memoryWatch struct{ killed atomic.Bool }

// watch ends with ended.
func (w *memoryWatch) watch(id string, running, ended <-chan struct{}) {
	select {
	case <-running:
	case <-ended:
		return
	}
	dir, v2, ok := memoryCgroup(filepath.Join(runcState, id, "state.json"), ended)
	if !ok {
		return
	}
	events, read, err := openMemoryEvents(dir, v2)
	if err != nil {
		slog.Warn("a step's memory can't be watched", "cgroup", dir, "error", err)
		return
	}
	done := make(chan struct{})
	go func() { // ends when events is closed
		defer close(done)
		for {
			killed, err := read()
			if err != nil {
				return
			}
			if killed {
				w.killed.Store(true)
			}
		}
	}()
	<-ended
	events.Close()
	<-done
}

// runcState is where runc, run by root, describes its containers (runc, main.go, v1.5.2).
const runcState = "/run/runc"

// memoryCgroup waits for runc to have described the container, and finds its cgroup there.
func memoryCgroup(state string, ended <-chan struct{}) (dir string, v2, ok bool) {
	for {
		var s struct {
			Paths map[string]string `json:"cgroup_paths"`
		}
		if dt, err := os.ReadFile(state); err == nil && json.Unmarshal(dt, &s) == nil {
			if dir, ok = s.Paths["memory"]; ok {
				return dir, false, true
			}
			dir, ok = s.Paths[""]
			return dir, true, ok
		}
		select {
		case <-ended:
			return "", false, false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// openMemoryEvents returns a file that the kernel makes readable when something happens, and what
// reads it: read blocks, and fails when the file is closed.
func openMemoryEvents(dir string, v2 bool) (events *os.File, read func() (killed bool, err error), err error) {
	if v2 {
		return openEvents2(dir)
	}
	return openEvents1(dir)
}

// openEvents1 registers an eventfd (Linux, admin-guide/cgroup-v1/memory.rst, 10). It is signalled at
// each time out of memory, and once more when the cgroup goes.
func openEvents1(dir string) (*os.File, func() (bool, error), error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), "memory events")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0); err != nil {
		f.Close()
		return nil, nil, err
	}
	var total uint64
	return f, func() (bool, error) {
		var b [8]byte
		if _, err := f.Read(b[:]); err != nil {
			return false, err
		}
		total += binary.NativeEndian.Uint64(b[:])
		_, err := os.Stat(dir)
		return err == nil || total > 1, nil
	}, nil
}

// openEvents2 watches memory.events (Linux, admin-guide/cgroup-v2.rst).
func openEvents2(dir string) (*os.File, func() (bool, error), error) {
	name := filepath.Join(dir, "memory.events")
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), "memory events")
	if _, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY); err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, func() (bool, error) {
		var b [4096]byte
		if _, err := f.Read(b[:]); err != nil {
			return false, err
		}
		return oomKills(name) > 0, nil
	}, nil
}

// oomKills is the counter oom_kill of a file of events; 0 when it has gone.
func oomKills(name string) (n uint64) {
	f, err := os.Open(name)
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "oom_kill "); ok {
			n, _ = strconv.ParseUint(v, 10, 64)
		}
	}
	return n
}
