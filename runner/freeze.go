package runner

import (
	"context"
	"fmt"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
)

// Pause freezes all processes of a container.
func (m *Manager) Pause(ctx context.Context, ref string) error {
	return m.freeze(ctx, ref, true)
}

// Unpause thaws them.
func (m *Manager) Unpause(ctx context.Context, ref string) error {
	return m.freeze(ctx, ref, false)
}

func (m *Manager) freeze(ctx context.Context, ref string, pause bool) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	r, err := c.running()
	if err != nil {
		return err
	}
	if c.record().State.Paused == pause {
		if pause {
			return fault.Conflict("container %s is already paused", c.id)
		}
		return fault.Conflict("Container %s is not paused", c.id)
	}
	act, word := r.task.Pause, "pause"
	if !pause {
		act, word = r.task.Resume, "unpause"
	}
	if err := act(cache.WithNamespace(ctx)); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", word, c.id, err)
	}
	err = c.update(func(r *Record) { r.State.Paused = pause })
	m.emit(c.record(), word)
	return err
}

// Resize tells a container's terminal its size.
func (m *Manager) Resize(ctx context.Context, ref string, height, width uint32) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	r, err := c.running()
	if err != nil {
		return err
	}
	if err := r.task.Resize(cache.WithNamespace(ctx), width, height); err != nil {
		return fmt.Errorf("cannot resize the terminal of container %s: %w", c.id, err)
	}
	return nil
}
