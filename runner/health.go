package runner

import (
	"context"
	"time"

	"github.com/gantry-build/gantry/runner/process"
)

// startHealth runs the container's health check until the run ends.
func (m *Manager) startHealth(c *container, r *run) {
	rec := c.record()
	check, ok := process.CheckOf(rec.Config)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	c.mu.Lock()
	alive := c.run == r // else it has ended already, and nobody would cancel
	if r.health = cancel; alive && c.rec.State.Health == nil {
		c.rec.State.Health = &process.Health{Status: "starting"}
	}
	c.mu.Unlock()
	if !alive || !m.background(func() { m.probeLoop(ctx, c, check) }) {
		cancel()
	}
}

func (m *Manager) probeLoop(ctx context.Context, c *container, check process.Check) {
	began := time.Now()
	for {
		now := c.record().State.Health
		wait := check.Interval
		if time.Since(began) < check.StartPeriod && now != nil && now.Status == "starting" {
			wait = check.StartInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if c.record().State.Paused {
			continue
		}
		p := m.Processes.Probe(ctx, c.id, check)
		if ctx.Err() != nil {
			return
		}
		m.judge(c, check.Retries, p, time.Since(began) < check.StartPeriod)
	}
}

// judge books a probe.
func (m *Manager) judge(c *container, retries int, p process.Probe, starting bool) {
	c.mu.Lock()
	old := c.rec.State.Health
	if c.run == nil || old == nil {
		c.mu.Unlock()
		return
	}
	now := old.After(p, retries, starting)
	c.rec.State.Health = &now
	err := c.save()
	rec := c.rec
	c.mu.Unlock()
	if err != nil {
		m.log.Error("writing a container's health", "container", c.id, "error", err)
	}
	if now.Status != old.Status {
		m.emit(rec, "health_status: "+now.Status)
	}
}
