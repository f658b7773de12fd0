package runner

import (
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const execKept = 5 * time.Minute // finished ones, for clients that ask for the exit code

// execTable holds the exec processes of all containers. Its zero value works.
type execTable struct {
	mu   sync.Mutex
	byID map[string]*execProcess
}

func (t *execTable) add(e *execProcess) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = map[string]*execProcess{}
	}
	for id, old := range t.byID {
		old.mu.Lock()
		if !old.finished.IsZero() && time.Since(old.finished) > execKept {
			delete(t.byID, id)
		}
		old.mu.Unlock()
	}
	t.byID[e.state.ID] = e
}

func (t *execTable) get(id string) (*execProcess, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		return e, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

// forget drops all of a removed container's.
func (t *execTable) forget(container string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.byID {
		if e.c.id == container {
			delete(t.byID, id)
		}
	}
}

// ofContainer lists the IDs of a container's processes that have not finished.
func (t *execTable) ofContainer(container string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id, e := range t.byID {
		if e.c.id == container && e.snapshot().ExitCode == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// release lets go of all processes without ending them.
func (t *execTable) release() {
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

// Execs lists the exec processes of a container that have not finished.
func (m *Manager) Execs(container string) []string { return m.execs.ofContainer(container) }
