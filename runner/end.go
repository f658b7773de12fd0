package runner

import (
	"context"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/runner/spec"
)

// exitUnknown is the exit code of a container whose shim vanished without a word, as in Docker.
const exitUnknown = 255

// watch waits for a run's end and books it. When the manager closes first, the container is left.
func (m *Manager) watch(c *container, r *run, exit <-chan client.ExitStatus) {
	var st client.ExitStatus
	select {
	case st = <-exit:
	case <-m.ctx.Done():
		return
	}
	code, at, err := st.Result()
	if err != nil {
		if m.ctx.Err() != nil {
			return
		}
		m.log.Error("the container's shim is gone", "container", c.id, "error", err)
		code, at = exitUnknown, time.Now()
	}
	m.ended(c, r, int(code), at)
}

// ended books the end of a run: the rest of its output, its task, its network, its record; then who
// waits is told, and then the container is restarted or removed if so agreed.
func (m *Manager) ended(c *container, r *run, code int, at time.Time) {
	ctx := context.WithoutCancel(m.ctx)
	if err := c.noteEnd(code, at); err != nil {
		m.log.Error("noting how a container has ended", "container", c.id, "error", err)
	}
	m.free(ctx, c, r)
	c.mu.Lock()
	lived := at.Sub(c.rec.State.StartedAt)
	again := restarts(c.rec.HostConfig.RestartPolicy, code, c.rec.RestartCount, c.rec.ManuallyStopped)
	st := State{
		ExitCode: code, FinishedAt: at.UTC(), StartedAt: c.rec.State.StartedAt, OOMKilled: c.rec.State.OOMKilled,
		Health: c.rec.State.Health, Removing: c.rec.State.Removing,
	}
	if again {
		st.Running, st.Restarting = true, true
		c.rec.RestartCount++
	}
	c.run, c.rec.State, c.rec.Attachments = nil, st, left(c.rec.Attachments)
	err := c.save()
	rec, end, restarting := c.rec, c.ending, c.restarts > 0
	end.code, c.ending = code, newEnding()
	c.mu.Unlock()
	if err != nil {
		m.log.Error("writing the record of an ended container", "container", c.id, "error", err)
	}
	c.streams.End()
	m.emit(rec, "die", "exitCode", strconv.Itoa(code), "execDuration", strconv.Itoa(int(max(lived, 0).Seconds())))
	m.emitMounts(rec, "unmount")
	m.emitNetworks("disconnect", rec)
	close(end.done)
	switch {
	case again:
		m.restartLater(c, lived)
	case rec.HostConfig.AutoRemove && !rec.State.Removing && !restarting:
		m.background(func() { m.autoRemove(c) })
	}
}

// noteEnd keeps how a run has ended before its task goes, and what the shim knows with it: a daemon that is killed in between leaves it
// to the next one.
func (c *container) noteEnd(code int, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.State.ExitCode, c.rec.State.FinishedAt = code, at.UTC()
	return c.save()
}

// noted is how a run has ended that the record has as running still.
func (s State) noted() (code int, at time.Time, ok bool) {
	return s.ExitCode, s.FinishedAt, s.Running && s.FinishedAt.After(s.StartedAt)
}

// free gives back what a run held in the kernel. Nothing in it may keep the end from being booked.
func (m *Manager) free(ctx context.Context, c *container, r *run) {
	c.mu.Lock()
	probes := r.health
	c.mu.Unlock()
	if probes != nil {
		probes()
	}
	if r.io != nil {
		r.io.Drain(3 * time.Second)
	}
	if r.task != nil {
		if _, err := r.task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			m.log.Warn("deleting an ended task", "container", c.id, "error", err)
		}
	}
	if r.io != nil {
		if err := r.io.Close(); err != nil {
			m.log.Warn("closing a container's pipes", "container", c.id, "error", err)
		}
	}
	m.disuseVolumes(c.record())
	if err := m.unmountShm(c.id); err != nil {
		m.log.Warn("a shared /dev/shm stays", "container", c.id, "error", err)
	}
	m.farewell(c.record())
	if err := m.leave(ctx, c.record()); err != nil {
		m.log.Warn("detaching a container's network", "container", c.id, "error", err)
	}
}

func (m *Manager) autoRemove(c *container) {
	c.op.Lock()
	defer c.op.Unlock()
	if c.current() != nil { // started again in between
		return
	}
	if err := m.remove(context.WithoutCancel(m.ctx), c, true); err != nil {
		m.log.Error("removing a container after its end (--rm)", "container", c.id, "error", err)
	}
}

// restarts says whether a policy wants another run.
func restarts(p spec.RestartPolicy, code, count int, manual bool) bool {
	if manual {
		return false
	}
	switch p.Name {
	case "always", "unless-stopped":
		return true
	case "on-failure":
		return code != 0 && (p.MaximumRetryCount == 0 || count < p.MaximumRetryCount)
	}
	return false
}

func (m *Manager) restartLater(c *container, lived time.Duration) {
	if m.ctx.Err() != nil {
		return
	}
	c.backoff.after(c.backoff.next(lived), func() {
		m.background(func() { m.restartNow(c) })
	})
}

func (m *Manager) restartNow(c *container) {
	c.op.Lock()
	defer c.op.Unlock()
	if st := c.record().State; c.current() != nil || !st.Restarting || st.Removing {
		return
	}
	if err := m.startRun(context.WithoutCancel(m.ctx), c); err != nil {
		m.log.Error("restarting a container by its policy", "container", c.id, "error", err)
	}
}
