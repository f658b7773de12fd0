package process

import (
	"cmp"
	"context"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/stream"
)

const kept = 5 * time.Minute // finished ones, for clients that ask for the exit code

// Container is a running container as its further processes see it.
type Container struct {
	ID     string
	Task   client.Task
	User   string   // its own, for processes that name none
	Groups []string // further ones of its processes
	Paused bool
	Event  func(action string, attributes ...string) // tells what has happened in it, also when it is gone
}

// user looks up, in the container's own files, who a process of it is to be.
func (c Container) user(cfg Config) (spec.User, error) {
	root := filepath.Join("/proc", strconv.Itoa(int(c.Task.Pid())), "root")
	return lookup.User(root, cmp.Or(cfg.User, c.User), c.Groups)
}

// Options say what a Table works with. All are needed.
type Options struct {
	Context    context.Context // has containerd's namespace; when it ends, processes are let go, and run on
	Pipes      string          // a directory, with a short path, for FIFOs
	Log        *slog.Logger
	Find       func(ref string) (Container, error) // errdefs.ErrConflict when it does not run
	Background func(f func()) bool                 // runs f; false when no more may begin
}

// Table holds the further processes of all containers. It is safe for concurrent use.
type Table struct {
	o    Options
	mu   sync.Mutex
	byID map[string]*process
}

// New returns an empty table.
func New(o Options) *Table { return &Table{o: o, byID: map[string]*process{}} }

// Create prepares a process; Start runs it. errdefs.ErrConflict when the container does not run.
func (t *Table) Create(ref string, cfg Config) (string, error) {
	c, err := t.o.Find(ref)
	if err != nil {
		return "", err
	}
	if len(cfg.Args) == 0 {
		return "", fault.Invalid("No exec command specified")
	}
	if c.Paused {
		return "", fault.Conflict("Container %s is paused, unpause the container before exec", ref)
	}
	if _, err := c.user(cfg); err != nil {
		return "", err
	}
	e := newProcess(c, cfg)
	t.add(e)
	e.event("exec_create: "+strings.Join(cfg.Args, " "), "execID", e.state.ID)
	return e.state.ID, nil
}

// Inspect returns what is known of a process; finished ones are kept for some minutes.
func (t *Table) Inspect(id string) (Exec, error) {
	e, err := t.get(id)
	if err != nil {
		return Exec{}, err
	}
	return e.snapshot(), nil
}

// Attach connects a client to a process's streams, before its start.
func (t *Table) Attach(id string) (*stream.Attachment, error) {
	e, err := t.get(id)
	if err != nil {
		return nil, err
	}
	a, _ := e.streams.Attach()
	return a, nil
}

// Start runs a prepared process. size is the terminal's height and width, zero for the created ones. Errors
// are as those of a container's start.
func (t *Table) Start(ctx context.Context, id string, size [2]uint) error {
	e, err := t.get(id)
	if err != nil {
		return err
	}
	if err := e.begin(size); err != nil {
		return err
	}
	if err := t.start(context.WithoutCancel(cache.WithNamespace(ctx)), e); err != nil {
		return e.fail(err)
	}
	e.event("exec_start: "+strings.Join(e.state.Config.Args, " "), "execID", id)
	return nil
}

// Resize tells the terminal of a process its size.
func (t *Table) Resize(ctx context.Context, id string, height, width uint32) error {
	e, err := t.get(id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	p := e.process
	e.mu.Unlock()
	if p == nil {
		return fault.Conflict("exec process %s is not running", id)
	}
	err = p.Resize(cache.WithNamespace(ctx), width, height)
	if errdefs.IsNotFound(err) {
		return fault.Conflict("exec process %s is not running", id)
	}
	return err
}

func (t *Table) add(e *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, old := range t.byID {
		old.mu.Lock()
		if !old.finished.IsZero() && time.Since(old.finished) > kept {
			delete(t.byID, id)
		}
		old.mu.Unlock()
	}
	t.byID[e.state.ID] = e
}

func (t *Table) get(id string) (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		return e, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

// Forget drops all of a removed container's.
func (t *Table) Forget(container string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.byID {
		if e.container == container {
			delete(t.byID, id)
		}
	}
}

// Of lists the IDs of a container's processes that have not finished.
func (t *Table) Of(container string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id, e := range t.byID {
		if e.container == container && e.snapshot().ExitCode == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// Release lets go of all processes without ending them.
func (t *Table) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.byID {
		e.mu.Lock()
		pipes := e.io
		e.mu.Unlock()
		if pipes != nil {
			pipes.Release()
		}
		e.streams.End()
	}
}
