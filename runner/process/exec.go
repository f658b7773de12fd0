// Package process runs further processes in running containers, for exec and for health checks, and lists
// all of a container's. A process hangs on the container's shim; its FIFOs are joined by package stream.
package process

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/stream"
)

// Config asks for a further process in a container.
type Config struct {
	spec.Exec
	AttachStdin, AttachStdout, AttachStderr bool
	DetachKeys                              string
}

// Exec is what is known of such a process.
type Exec struct {
	ID        string
	Container string // ID
	Config    Config
	Running   bool
	ExitCode  *int // nil before the end
	Pid       int
}

// process is one of them.
type process struct {
	container string // ID
	event     func(action string, attributes ...string)
	streams   *stream.Streams

	mu       sync.Mutex // guards what follows
	state    Exec
	begun    bool
	process  client.Process
	io       *stream.Pipes
	finished time.Time
	done     chan struct{}
}

func newProcess(c Container, cfg Config) *process {
	return &process{
		container: c.ID, event: c.Event, streams: stream.New(nil), done: make(chan struct{}),
		state: Exec{ID: stringid.GenerateRandomID(), Container: c.ID, Config: cfg},
	}
}

func (e *process) snapshot() Exec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

// begin claims the start of a process, which happens once. size is the terminal's height and width, zero
// for those that it was created with.
func (e *process) begin(size [2]uint) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun {
		return fault.Conflict("exec command %s has already run", e.state.ID)
	}
	e.begun = true
	if size[0] > 0 && size[1] > 0 {
		e.state.Config.ConsoleSize = size
	}
	return nil
}

func (t *Table) start(ctx context.Context, e *process) (err error) {
	c, err := t.o.Find(e.container)
	if err != nil {
		return err
	}
	cfg := e.snapshot().Config
	base, err := c.Task.Spec(ctx)
	if err != nil {
		return err
	}
	u, err := c.user(cfg)
	if err != nil {
		return err
	}
	machine, err := lookup.Machine(false)
	if err != nil {
		return err
	}
	var pipes *stream.Pipes
	asked := spec.ExecProcess(base.Process, cfg.Exec, u, machine)
	proc, err := c.Task.Exec(ctx, e.state.ID, asked, func(id string) (cio.IO, error) {
		dir := filepath.Join(t.o.Pipes, id)
		var err error
		pipes, err = stream.Open(dir, stream.Paths(dir, cfg.Tty, cfg.AttachStdin), e.streams)
		if err != nil {
			return nil, err
		}
		return pipes, nil
	})
	if err != nil {
		return err
	}
	exit, err := proc.Wait(t.o.Context)
	if err != nil {
		return err
	}
	if err := proc.Start(ctx); err != nil {
		_, _ = proc.Delete(ctx)
		return err
	}
	e.mu.Lock()
	e.process, e.io, e.state.Running, e.state.Pid = proc, pipes, true, int(proc.Pid())
	e.mu.Unlock()
	pipes.Started(proc)
	t.o.Background(func() { t.watch(e, exit) })
	return nil
}

// fail books a process that could not be started, with the exit codes of a shell.
func (e *process) fail(cause error) error {
	code := 126
	if t := cause.Error(); strings.Contains(t, "executable file not found") || strings.Contains(t, "no such file or directory") {
		code = 127
	}
	e.finish(code)
	if errdefs.IsConflict(cause) {
		return cause
	}
	return fault.Invalid("OCI runtime exec failed: %s", strings.TrimPrefix(cause.Error(), "OCI runtime exec failed: "))
}

func (e *process) finish(code int) {
	e.mu.Lock()
	e.state.Running, e.state.ExitCode, e.finished = false, &code, time.Now()
	e.mu.Unlock()
	e.streams.End()
	close(e.done)
}

func (t *Table) watch(e *process, exit <-chan client.ExitStatus) {
	var st client.ExitStatus
	select {
	case st = <-exit:
	case <-t.o.Context.Done():
		return
	}
	code, _, err := st.Result()
	if err != nil {
		if t.o.Context.Err() != nil {
			return
		}
		code = 137 // its container is gone
	}
	e.io.Settle(2 * time.Second)
	e.finish(int(code))
	e.event("exec_die", "execID", e.state.ID, "exitCode", strconv.Itoa(int(code)))
	// The shim waits for its end of the pipes, ten seconds if a process holds them.
	if _, err := e.process.Delete(t.o.Context); err != nil && !errdefs.IsNotFound(err) {
		t.o.Log.Debug("deleting an ended exec process", "exec", e.state.ID, "error", err)
	}
	if err := e.io.Close(); err != nil {
		t.o.Log.Warn("closing the pipes of an exec process", "exec", e.state.ID, "error", err)
	}
}

// kill ends a process that takes too long.
func (t *Table) kill(e *process) {
	e.mu.Lock()
	p := e.process
	e.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.Kill(context.WithoutCancel(t.o.Context), syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		t.o.Log.Warn("killing an exec process", "exec", e.state.ID, "error", err)
	}
}
