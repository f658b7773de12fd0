package runner

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

// ExecConfig asks for a further process in a container.
type ExecConfig struct {
	spec.Exec
	AttachStdin, AttachStdout, AttachStderr bool
	DetachKeys                              string
}

// Exec is what is known of such a process.
type Exec struct {
	ID        string
	Container string // ID
	Config    ExecConfig
	Running   bool
	ExitCode  *int // nil before the end
	Pid       int
}

type execProcess struct {
	c       *container
	streams *stream.Streams

	mu       sync.Mutex // guards what follows
	state    Exec
	started  bool
	process  client.Process
	io       *stream.Pipes
	finished time.Time
	done     chan struct{}
}

func (e *execProcess) snapshot() Exec {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

// ExecCreate prepares a process; ExecStart runs it. errdefs.ErrConflict when the container does not run.
func (m *Manager) ExecCreate(ref string, cfg ExecConfig) (string, error) {
	c, err := m.find(ref)
	if err != nil {
		return "", err
	}
	if len(cfg.Args) == 0 {
		return "", fault.Invalid("No exec command specified")
	}
	if _, err := c.running(); err != nil {
		return "", err
	}
	if c.record().State.Paused {
		return "", fault.Conflict("container %s is paused, unpause the container before exec", ref)
	}
	e := newExec(c, cfg)
	m.execs.add(e)
	m.emit(c.record(), "exec_create: "+strings.Join(cfg.Args, " "), "execID", e.state.ID)
	return e.state.ID, nil
}

func newExec(c *container, cfg ExecConfig) *execProcess {
	return &execProcess{
		c: c, streams: stream.New(nil), done: make(chan struct{}),
		state: Exec{ID: stringid.GenerateRandomID(), Container: c.id, Config: cfg},
	}
}

// ExecInspect returns what is known of a process; finished ones are kept for some minutes.
func (m *Manager) ExecInspect(id string) (Exec, error) {
	e, err := m.execs.get(id)
	if err != nil {
		return Exec{}, err
	}
	return e.snapshot(), nil
}

// ExecAttach connects a client to a process's streams, before its start.
func (m *Manager) ExecAttach(id string) (*stream.Attachment, error) {
	e, err := m.execs.get(id)
	if err != nil {
		return nil, err
	}
	a, _ := e.streams.Attach()
	return a, nil
}

// ExecStart runs a prepared process. size is the terminal's height and width, zero for the created
// ones. Errors as those of Start.
func (m *Manager) ExecStart(ctx context.Context, id string, size [2]uint) error {
	e, err := m.execs.get(id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	if e.started {
		e.mu.Unlock()
		return fault.Conflict("exec command %s has already run", id)
	}
	e.started = true
	if size[0] > 0 && size[1] > 0 {
		e.state.Config.ConsoleSize = size
	}
	e.mu.Unlock()
	if err := m.startExec(context.WithoutCancel(scoped(ctx)), e); err != nil {
		return e.fail(err)
	}
	m.emit(e.c.record(), "exec_start: "+strings.Join(e.state.Config.Args, " "), "execID", id)
	return nil
}

func (m *Manager) startExec(ctx context.Context, e *execProcess) (err error) {
	r, err := e.c.running()
	if err != nil {
		return err
	}
	cfg := e.snapshot().Config
	base, err := r.task.Spec(ctx)
	if err != nil {
		return err
	}
	who := cfg.User
	if who == "" {
		who = e.c.record().Config.User
	}
	u, err := lookup.User(filepath.Join("/proc", strconv.Itoa(int(r.task.Pid())), "root"), who, nil)
	if err != nil {
		return err
	}
	machine, err := lookup.Machine(false)
	if err != nil {
		return err
	}
	var pipes *stream.Pipes
	proc, err := r.task.Exec(ctx, e.state.ID, spec.ExecProcess(base.Process, cfg.Exec, u, machine), func(id string) (cio.IO, error) {
		dir := filepath.Join(m.fifoDir(), id)
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
	exit, err := proc.Wait(m.ctx)
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
	m.background(func() { m.watchExec(e, exit) })
	return nil
}

// fail books a process that could not be started, with the exit codes of a shell.
func (e *execProcess) fail(cause error) error {
	code := 126
	if t := cause.Error(); strings.Contains(t, "executable file not found") || strings.Contains(t, "no such file or directory") {
		code = 127
	}
	e.finish(code)
	if errdefs.IsConflict(cause) {
		return cause
	}
	return fault.Invalid("OCI runtime exec failed: %v", cause)
}

func (e *execProcess) finish(code int) {
	e.mu.Lock()
	e.state.Running, e.state.ExitCode, e.finished = false, &code, time.Now()
	e.mu.Unlock()
	e.streams.End()
	close(e.done)
}

func (m *Manager) watchExec(e *execProcess, exit <-chan client.ExitStatus) {
	var st client.ExitStatus
	select {
	case st = <-exit:
	case <-m.ctx.Done():
		return
	}
	code, _, err := st.Result()
	if err != nil {
		if m.ctx.Err() != nil {
			return
		}
		code = 137 // its container is gone
	}
	e.io.Drain(2 * time.Second)
	if _, err := e.process.Delete(context.WithoutCancel(m.ctx)); err != nil && !errdefs.IsNotFound(err) {
		m.log.Debug("deleting an ended exec process", "exec", e.state.ID, "error", err)
	}
	if err := e.io.Close(); err != nil {
		m.log.Warn("closing the pipes of an exec process", "exec", e.state.ID, "error", err)
	}
	e.finish(int(code))
	m.emit(e.c.record(), "exec_die", "execID", e.state.ID, "exitCode", strconv.Itoa(int(code)))
}

// killExec ends a process that takes too long.
func (m *Manager) killExec(e *execProcess) {
	e.mu.Lock()
	p := e.process
	e.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.Kill(context.WithoutCancel(m.ctx), syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		m.log.Warn("killing an exec process", "exec", e.state.ID, "error", err)
	}
}

// ExecResize tells the terminal of a process its size.
func (m *Manager) ExecResize(ctx context.Context, id string, height, width uint32) error {
	e, err := m.execs.get(id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	p := e.process
	e.mu.Unlock()
	if p == nil {
		return fault.Conflict("exec process %s is not running", id)
	}
	return p.Resize(scoped(ctx), width, height)
}
