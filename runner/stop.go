package runner

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

const (
	defaultStopTimeout = 10 * time.Second
	killTimeout        = 10 * time.Second // after SIGKILL a process has no excuse
	shimTimeout        = 2 * time.Second  // from a shim's end to the booking of its container's
)

// StopOptions override how a container stops.
type StopOptions struct {
	Signal  string // the container's own when empty
	Timeout *int   // seconds until SIGKILL; nil is the container's own, negative is for ever
}

func stopSignal(c spec.Config, override string) (syscall.Signal, error) {
	name := override
	if name == "" {
		name = c.StopSignal
	}
	if name == "" {
		return syscall.SIGTERM, nil
	}
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, fault.Invalid("%v", err)
	}
	return sig, nil
}

// Stop asks a container to end, kills it after a while, and returns when it has ended.
// errdefs.ErrNotModified when it does not run.
func (m *Manager) Stop(ctx context.Context, ref string, o StopOptions) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	sig, err := stopSignal(c.record().Config, o.Signal)
	if err != nil {
		return err
	}
	// The grace period goes on when the client is gone: nobody else would kill the container.
	return m.stopRun(context.WithoutCancel(cache.WithNamespace(ctx)), c, sig, o.Timeout)
}

func (m *Manager) stopRun(ctx context.Context, c *container, sig syscall.Signal, timeout *int) error {
	r, end, err := m.forEnding(c)
	if err != nil || r == nil {
		return err
	}
	if err := m.signal(ctx, c, r, end, sig); err != nil {
		return err
	}
	if !waitFor(ctx, end, grace(c.record().Config, timeout)) {
		m.log.Info("container did not end in time, killing it", "container", c.id, "signal", sig)
		if err := m.signal(ctx, c, r, end, syscall.SIGKILL); err != nil {
			return err
		}
		if !waitFor(ctx, end, killTimeout) {
			return fmt.Errorf("container %s did not end within %v of SIGKILL: it may hang in the kernel", c.id, killTimeout)
		}
	}
	m.emit(c.record(), "stop")
	return nil
}

// forEnding marks a container as stopped by hand and returns its run. A container that waits for its
// restart is stopped right here, and has no run.
func (m *Manager) forEnding(c *container) (*run, *ending, error) {
	for {
		c.mu.Lock()
		st := c.rec.State
		r, end := c.run, c.ending
		if r == nil && !st.Restarting {
			c.mu.Unlock()
			return nil, nil, errdefs.ErrNotModified.WithMessage("container " + c.id + " is not running")
		}
		c.rec.ManuallyStopped = true
		if r != nil {
			err := c.save()
			c.mu.Unlock()
			return r, end, err
		}
		c.mu.Unlock()
		c.backoff.cancel()
		c.op.Lock() // a restart that has begun ends first
		done := c.current() == nil
		var err error
		if done {
			err = c.update(func(r *Record) { r.State.Running, r.State.Restarting = false, false })
		}
		c.op.Unlock()
		if done {
			return nil, nil, err
		}
	}
}

func grace(c spec.Config, override *int) time.Duration {
	if override == nil {
		override = c.StopTimeout
	}
	switch {
	case override == nil:
		return defaultStopTimeout
	case *override < 0:
		return -1
	}
	return time.Duration(*override) * time.Second
}

// waitFor waits for a run's end; a negative d has no limit.
func waitFor(ctx context.Context, end *ending, d time.Duration) bool {
	var limit <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		limit = t.C
	}
	select {
	case <-end.done:
		return true
	case <-limit:
	case <-ctx.Done():
	}
	return false
}

// signal sends a signal to a run's first process. A frozen process takes no signal, so a paused
// container is thawed for those that end it. A process that has just ended is no error; its shim
// goes away with it, at any moment of the call.
func (m *Manager) signal(ctx context.Context, c *container, r *run, end *ending, sig syscall.Signal) error {
	err := r.task.Kill(ctx, sig)
	if err != nil && !errdefs.IsNotFound(err) {
		if waitFor(ctx, end, shimTimeout) {
			return nil
		}
		return fmt.Errorf("cannot send %v to container %s: %w", sig, c.id, err)
	}
	rec := c.record()
	stop, _ := stopSignal(rec.Config, "")
	if rec.State.Paused && (sig == syscall.SIGKILL || sig == stop) {
		if err := r.task.Resume(ctx); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("cannot thaw container %s: %w", c.id, err)
		}
		return c.update(func(r *Record) { r.State.Paused = false })
	}
	return nil
}

// Kill sends a signal, SIGKILL when it is empty. After SIGKILL it waits for the end.
// errdefs.ErrConflict when the container does not run.
func (m *Manager) Kill(ctx context.Context, ref, name string) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	sig := syscall.SIGKILL
	if name != "" {
		if sig, err = signal.ParseSignal(name); err != nil {
			return fault.Invalid("cannot kill container: %s: %v", ref, err)
		}
	}
	ctx = context.WithoutCancel(cache.WithNamespace(ctx))
	c.mu.Lock()
	r, end := c.run, c.ending
	c.mu.Unlock()
	if r == nil {
		return fault.Conflict("cannot kill container: %s: container %s is not running", ref, c.id)
	}
	stop, err := stopSignal(c.record().Config, "")
	if err != nil {
		return err
	}
	if sig == syscall.SIGKILL || sig == stop {
		if err := c.update(func(r *Record) { r.ManuallyStopped = true }); err != nil {
			return err
		}
	}
	if err := m.signal(ctx, c, r, end, sig); err != nil {
		return err
	}
	m.emit(c.record(), "kill", "signal", fmt.Sprint(int(sig)))
	if sig == syscall.SIGKILL && !waitFor(ctx, end, killTimeout) {
		return fmt.Errorf("container %s did not end within %v of SIGKILL: it may hang in the kernel", c.id, killTimeout)
	}
	return nil
}

// Restart stops a container if it runs, and starts it.
func (m *Manager) Restart(ctx context.Context, ref string, o StopOptions) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	c.restarting(true) // from --rm
	defer c.restarting(false)
	if err := m.Stop(ctx, c.id, o); err != nil && !errdefs.IsNotModified(err) {
		return err
	}
	if err := m.Start(ctx, c.id); err != nil && !errdefs.IsNotModified(err) {
		return err
	}
	m.emit(c.record(), "restart")
	return nil
}
