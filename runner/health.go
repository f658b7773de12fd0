package runner

import (
	"bytes"
	"context"
	"time"

	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/stream"
)

// Health is what a container's health check found.
type Health struct {
	Status        string // starting, healthy, unhealthy
	FailingStreak int
	Log           []Probe // the last few, oldest first
}

// Probe is one run of a health check.
type Probe struct {
	Start, End time.Time
	ExitCode   int // 0 is healthy, -1 that it took too long or could not run
	Output     string
}

const (
	probesKept  = 5
	probeOutput = 4096
)

// startHealth runs the container's health check until the run ends.
func (m *Manager) startHealth(c *container, r *run) {
	rec := c.record()
	h := rec.Config.Healthcheck
	args := probeArgs(rec.Config)
	if args == nil {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	c.mu.Lock()
	alive := c.run == r // else it has ended already, and nobody would cancel
	if r.health = cancel; alive && c.rec.State.Health == nil {
		c.rec.State.Health = &Health{Status: "starting"}
	}
	c.mu.Unlock()
	if !alive || !m.background(func() { m.probeLoop(ctx, c, withDefaults(*h), args) }) {
		cancel()
	}
}

// probeArgs is the command of a health check, nil when there is none.
func probeArgs(c spec.Config) []string {
	if c.Healthcheck == nil || len(c.Healthcheck.Test) < 2 {
		return nil
	}
	test := c.Healthcheck.Test
	switch test[0] {
	case "CMD":
		return test[1:]
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return append(shell[:len(shell):len(shell)], test[1])
	}
	return nil
}

// withDefaults fills in Docker's: half a minute between checks and for one, three tries.
func withDefaults(h spec.Healthcheck) spec.Healthcheck {
	for _, d := range []struct{ v, def *time.Duration }{
		{&h.Interval, ptr(30 * time.Second)}, {&h.Timeout, ptr(30 * time.Second)}, {&h.StartInterval, ptr(5 * time.Second)},
	} {
		if *d.v <= 0 {
			*d.v = *d.def
		}
	}
	if h.Retries <= 0 {
		h.Retries = 3
	}
	return h
}

func ptr[T any](v T) *T { return &v }

func (m *Manager) probeLoop(ctx context.Context, c *container, h spec.Healthcheck, args []string) {
	began := time.Now()
	for {
		now := c.record().State.Health
		wait := h.Interval
		if time.Since(began) < h.StartPeriod && now != nil && now.Status == "starting" {
			wait = h.StartInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if c.record().State.Paused {
			continue
		}
		p := m.probe(ctx, c, h.Timeout, args)
		if ctx.Err() != nil {
			return
		}
		m.judge(c, h, p, time.Since(began) < h.StartPeriod)
	}
}

// probe runs the check once.
func (m *Manager) probe(ctx context.Context, c *container, limit time.Duration, args []string) Probe {
	p := Probe{Start: time.Now(), ExitCode: -1}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	e := newExec(c, ExecConfig{Exec: spec.Exec{Args: args}, AttachStdout: true, AttachStderr: true})
	a, _ := e.streams.Attach()
	defer a.Close()
	output := make(chan string, 1)
	m.wg.Go(func() { output <- firstBytes(a) })
	if err := m.startExec(context.WithoutCancel(ctx), e); err != nil {
		_ = e.fail(err)
		<-output
		p.End, p.Output = time.Now(), err.Error()
		return p
	}
	select {
	case <-e.done:
		p.ExitCode, p.Output = *e.snapshot().ExitCode, <-output
	case <-ctx.Done():
		m.killExec(e)
		a.Close()
		<-output
		p.Output = "Health check exceeded timeout (" + limit.String() + ")"
	}
	p.End = time.Now()
	return p
}

func firstBytes(a *stream.Attachment) string {
	var b bytes.Buffer
	for {
		c, err := a.Next()
		if err != nil {
			return b.String()
		}
		if room := probeOutput - b.Len(); room > 0 {
			b.Write(c.Data[:min(room, len(c.Data))])
		}
	}
}

// judge books a probe. Failures in the start period do not count.
func (m *Manager) judge(c *container, h spec.Healthcheck, p Probe, starting bool) {
	c.mu.Lock()
	old := c.rec.State.Health
	if c.run == nil || old == nil {
		c.mu.Unlock()
		return
	}
	now := nextHealth(*old, h.Retries, p, starting)
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

func nextHealth(h Health, retries int, p Probe, starting bool) Health {
	h.Log = append(append([]Probe(nil), h.Log...), p)
	if len(h.Log) > probesKept {
		h.Log = h.Log[len(h.Log)-probesKept:]
	}
	switch {
	case p.ExitCode == 0:
		h.Status, h.FailingStreak = "healthy", 0
	case starting && h.Status == "starting":
	default:
		if h.FailingStreak++; h.FailingStreak >= retries {
			h.Status = "unhealthy"
		}
	}
	return h
}
