package process

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

// Check is a container's health check.
type Check struct {
	spec.Healthcheck          // with Docker's defaults
	args             []string // its command
}

// CheckOf returns the health check that a container's configuration asks for; false when there is none.
func CheckOf(c spec.Config) (Check, bool) {
	args := probeArgs(c)
	if args == nil {
		return Check{}, false
	}
	return Check{withDefaults(*c.Healthcheck), args}, true
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

// Probe runs a check once in a container.
func (t *Table) Probe(ctx context.Context, container string, check Check) Probe {
	p := Probe{Start: time.Now(), ExitCode: -1}
	ctx, cancel := context.WithTimeout(ctx, check.Timeout)
	defer cancel()
	c, err := t.o.Find(container)
	if err != nil {
		p.End, p.Output = time.Now(), err.Error()
		return p
	}
	e := newProcess(c, Config{Exec: spec.Exec{Args: check.args}, AttachStdout: true, AttachStderr: true})
	a, _ := e.streams.Attach()
	defer a.Close()
	output := make(chan string, 1)
	go func() { output <- firstBytes(a) }() // ends with the process, or with a
	if err := t.start(context.WithoutCancel(ctx), e); err != nil {
		_ = e.fail(err)
		<-output
		p.End, p.Output = time.Now(), err.Error()
		return p
	}
	select {
	case <-e.done:
		p.ExitCode, p.Output = *e.snapshot().ExitCode, <-output
	case <-ctx.Done():
		t.kill(e)
		a.Close()
		p.Output = "Health check exceeded timeout (" + check.Timeout.String() + ")"
		if said := <-output; said != "" {
			p.Output += ": " + said
		}
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

// After is the health after one more probe, of a check that may fail retries times. Failures of a container
// that is still starting do not count.
func (h Health) After(p Probe, retries int, starting bool) Health {
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
