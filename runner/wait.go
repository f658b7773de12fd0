package runner

import (
	"context"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/logs"
)

// Condition is what Wait waits for (Engine API: ContainerWait).
type Condition string

const (
	NotRunning Condition = "not-running"
	NextExit   Condition = "next-exit"
	Removed    Condition = "removed"
)

// Waiter waits for a container. What happens after Wait returned it is not missed.
type Waiter struct {
	c       *container
	end     *ending
	removed bool // wait for the removal
	done    bool // nothing to wait for
	code    int
}

// Wait registers for a condition of a container.
func (m *Manager) Wait(ref string, cond Condition) (*Waiter, error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &Waiter{c: c, end: c.ending}
	switch cond {
	case "", NotRunning:
		w.done, w.code = c.run == nil && !c.rec.State.Restarting, c.rec.State.ExitCode
	case NextExit:
	case Removed:
		w.removed = true
	default:
		return nil, fault.Invalid("invalid condition: %q", string(cond))
	}
	return w, nil
}

// Wait returns the exit code once the condition holds, or ctx's error. A container that is removed
// without another run gives its last exit code.
func (w *Waiter) Wait(ctx context.Context) (int, error) {
	if w.done {
		return w.code, nil
	}
	end := w.end.done
	if w.removed {
		end = nil
	}
	select {
	case <-end:
		return w.end.code, nil
	case <-w.c.removed:
		return w.c.record().State.ExitCode, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Logs calls fn with the container's log entries: see logs.Query. Follow ends with the current run.
func (m *Manager) Logs(ctx context.Context, ref string, q logs.Query, fn func(logs.Entry) error) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.run == nil && !c.rec.State.Restarting {
		q.Follow = false
	}
	q.Done = c.ending.done
	c.mu.Unlock()
	return c.log.Read(ctx, q, fn)
}
