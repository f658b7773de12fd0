package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
)

// RemoveOptions say how a container is removed.
type RemoveOptions struct {
	Force   bool // kill it first
	Volumes bool // and its anonymous volumes
}

// Remove deletes a container. errdefs.ErrConflict when it runs and Force is not given.
func (m *Manager) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(cache.WithNamespace(ctx))
	if rec := c.record(); rec.State.Running && !o.Force {
		what := rec.State.Status()
		return fault.Conflict("cannot remove container %q: container is %s: stop the container before removing or force remove", rec.Name,
			what)
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.backoff.cancel()
	if o.Force {
		if err := m.killLocked(ctx, c); err != nil {
			return err
		}
	}
	if c.current() != nil {
		return fault.Conflict("cannot remove container %q: container is running: stop the container before removing or force remove",
			c.record().Name)
	}
	return m.remove(ctx, c, o.Volumes)
}

// killLocked ends a container's run at once. The caller holds c.op.
func (m *Manager) killLocked(ctx context.Context, c *container) error {
	c.mu.Lock()
	r, end := c.run, c.ending
	c.rec.ManuallyStopped = true
	c.rec.State.Restarting = false
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := m.signal(ctx, c, r, end, syscall.SIGKILL); err != nil {
		return err
	}
	if !waitFor(ctx, end, killTimeout) {
		return fmt.Errorf("container %s did not end within %v of SIGKILL: it may hang in the kernel", c.id, killTimeout)
	}
	return nil
}

// remove deletes a container that does not run. The caller holds c.op. Removing twice is no error.
func (m *Manager) remove(ctx context.Context, c *container, withVolumes bool) error {
	select {
	case <-c.removed:
		return nil
	default:
	}
	if err := c.update(func(r *Record) { r.State.Removing, r.State.Running, r.State.Restarting = true, false, false }); err != nil {
		return err
	}
	rec := c.record()
	if err := m.removeTask(ctx, c.id); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.id, err)
	}
	if withVolumes {
		m.dropVolumes(rec)
	}
	if err := errors.Join(c.log.Close(), os.RemoveAll(c.dir)); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.id, err)
	}
	m.mu.Lock()
	delete(m.byID, c.id)
	if m.names[rec.Name] == c.id {
		delete(m.names, rec.Name)
	}
	m.mu.Unlock()
	m.Processes.Forget(c.id)
	c.streams.End()
	m.emit(rec, "destroy")
	close(c.removed)
	return nil
}

// removeTask deletes containerd's side of a container: task, container, snapshot. What is gone
// already is no error, so that a removal that was cut off can be finished.
func (m *Manager) removeTask(ctx context.Context, id string) error {
	cont, err := m.client.LoadContainer(ctx, id)
	if err == nil {
		if err = dropTask(ctx, cont); err == nil {
			err = cont.Delete(ctx)
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	err = m.client.SnapshotService(cache.Snapshotter).Remove(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return m.dropViews(ctx, id)
}

// Rename gives a container another name.
func (m *Manager) Rename(ref, name string) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	if name == "" {
		return fault.Invalid("Neither old nor new names may be empty")
	}
	c.op.Lock()
	defer c.op.Unlock()
	old := c.record().Name
	if old == name {
		return fault.Invalid("Renaming a container with the same name as its current name")
	}
	if _, err := m.reserve(name, c.id); err != nil {
		//lint:ignore ST1005 Docker's text
		return fmt.Errorf("Error when allocating new name: %w", err)
	}
	if err := c.update(func(r *Record) { r.Name = name }); err != nil {
		m.unreserve(name, c.id)
		return err
	}
	m.unreserve(old, c.id)
	if err := m.introduce(c); err != nil {
		m.log.Warn("telling networks a container's new name", "container", c.id, "error", err)
	}
	m.emit(c.record(), "rename", "oldName", "/"+old)
	return nil
}
