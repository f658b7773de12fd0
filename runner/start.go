package runner

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/spec"
	"github.com/gantry-build/gantry/runner/stream"
)

// Start starts a container's process. Errors: errdefs.ErrNotModified when it runs already, and
// ErrInvalidArgument when its command can't be executed, with runc's text.
func (m *Manager) Start(ctx context.Context, ref string) error {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	st := c.record().State
	switch {
	case st.Removing:
		return fault.Conflict("container is marked for removal and cannot be started")
	case st.Paused:
		return fault.Conflict("cannot start a paused container, try unpause instead")
	case c.current() != nil:
		return errdefs.ErrNotModified.WithMessage("container is already running")
	}
	c.backoff.cancel()
	c.backoff.reset()
	if err := c.update(func(r *Record) { r.RestartCount, r.ManuallyStopped = 0, false }); err != nil {
		return err
	}
	err = m.startRun(context.WithoutCancel(cache.WithNamespace(ctx)), c) // half a start helps nobody
	if err != nil && c.record().HostConfig.AutoRemove {
		err = errors.Join(err, m.remove(context.WithoutCancel(cache.WithNamespace(ctx)), c, true))
	}
	return err
}

// startRun makes a run. The caller holds c.op, and c has no run.
func (m *Manager) startRun(ctx context.Context, c *container) error {
	if m.ctx.Err() != nil {
		return errdefs.ErrUnavailable.WithMessage(errClosing.Error())
	}
	r, attached, exit, err := m.launch(ctx, c)
	if err != nil {
		return m.startFailed(c, err)
	}
	c.mu.Lock()
	c.run = r
	c.rec.Attachments = attached
	c.rec.State = State{
		Running: true, Pid: int(r.task.Pid()), StartedAt: time.Now().UTC(), FinishedAt: c.rec.State.FinishedAt,
	}
	err = c.save()
	rec := c.rec
	c.mu.Unlock()
	if err != nil {
		m.log.Error("writing the record of a started container", "container", c.id, "error", err)
	}
	m.relink(rec)
	r.io.Started(r.task)
	m.emitMounts(rec, "mount")
	m.emitNetworks("connect", rec)
	m.emit(rec, "start")
	m.background(func() { m.watch(c, r, exit) })
	m.startHealth(c, r)
	return nil
}

// startFailed books a start that did not happen. The exit codes are Docker's.
func (m *Manager) startFailed(c *container, cause error) error {
	code, class := 128, false
	switch text := cause.Error(); {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		code, class = 127, true
	case strings.Contains(text, "permission denied"):
		code, class = 126, true
	case strings.Contains(text, "is a directory"):
		code, class = 126, true
		cause = fmt.Errorf("%w: permission denied", cause) // which runc does not say
	}
	c.mu.Lock()
	c.rec.State = State{ExitCode: code, Error: cause.Error(), StartedAt: c.rec.State.StartedAt, FinishedAt: time.Now().UTC()}
	c.rec.Attachments = left(c.rec.Attachments)
	err := c.save()
	end := c.ending
	end.code, c.ending = code, newEnding()
	c.mu.Unlock()
	if err != nil {
		m.log.Error("writing the record of a container that failed to start", "container", c.id, "error", err)
	}
	c.streams.End()
	close(end.done)
	if class && !errdefs.IsInvalidArgument(cause) {
		return errdefs.ErrInvalidArgument.WithMessage(cause.Error())
	}
	return cause
}

// launch makes the task, gives it its network, and starts it. After an error nothing is left.
func (m *Manager) launch(ctx context.Context, c *container) (_ *run, attached []Attachment, _ <-chan client.ExitStatus, err error) {
	rec := c.record()
	if err := c.log.Check(); err != nil {
		return nil, nil, nil, err
	}
	cont, err := m.client.LoadContainer(ctx, c.id)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := dropTask(ctx, cont); err != nil {
		return nil, nil, nil, err
	}
	if err := m.useVolumes(rec); err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			m.disuseVolumes(rec)
			err = errors.Join(err, m.unmountShm(rec.ID))
		}
	}()
	mounts, release, err := m.subpaths().Mounts(c.id, rec.Mounts)
	defer release()
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := m.specFor(ctx, c, rec, mounts)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cont.Update(ctx, withSpec(s)); err != nil {
		return nil, nil, nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	r := &run{}
	r.task, err = cont.NewTask(ctx, func(string) (cio.IO, error) {
		dir := filepath.Join(m.fifoDir(), c.id)
		var err error
		r.io, err = stream.Open(dir, stream.Paths(dir, rec.Config.Tty, rec.Config.OpenStdin), c.streams)
		if err != nil {
			return nil, err // a nil *stream.Pipes in a cio.IO would not be nil
		}
		return r.io, nil
	})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("failed to create task for container: %w", err)
	}
	defer func() {
		if err != nil {
			_, e := r.task.Delete(ctx, client.WithProcessKill)
			m.farewell(rec)
			err = errors.Join(err, e, m.leave(ctx, rec))
		}
	}()
	if err = m.connect(ctx, c, &rec, int(r.task.Pid())); err != nil {
		return nil, nil, nil, err
	}
	exit, err := r.task.Wait(m.ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := r.task.Start(ctx); err != nil {
		return nil, nil, nil, fmt.Errorf("failed to start task for container: %w", err)
	}
	return r, rec.Attachments, exit, nil
}

// dropTask removes what a killed daemon may have left of a run that was never booked.
func dropTask(ctx context.Context, cont client.Container) error {
	task, err := cont.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		_, err = task.Delete(ctx, client.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("left-over task of container %s: %w", cont.ID(), err)
	}
	return nil
}

func withSpec(s *specs.Spec) client.UpdateContainerOpts {
	return func(_ context.Context, _ *client.Client, c *containers.Container) (err error) {
		c.Spec, err = typeurl.MarshalAny(s)
		return err
	}
}

// specFor looks everything up that the specification needs, and makes it.
func (m *Manager) specFor(ctx context.Context, c *container, rec Record, mounts []spec.Mount) (*specs.Spec, error) {
	in := spec.Input{ID: rec.ID, Init: m.o.Init, Config: rec.Config, Host: rec.HostConfig, Mounts: mounts}
	err := m.withRootfs(ctx, rec.ID, func(root string) (err error) {
		in.User, err = lookup.User(root, rec.Config.User, rec.HostConfig.GroupAdd)
		return err
	})
	if err != nil {
		return nil, err
	}
	if in.Devices, err = lookup.Devices(rec.HostConfig.Devices); err != nil {
		return nil, err
	}
	if in.BlockIO, err = lookup.BlockIO(rec.HostConfig.Blkio); err != nil {
		return nil, err
	}
	if in.Machine, err = lookup.Machine(rec.HostConfig.Privileged); err != nil {
		return nil, err
	}
	if in.Files, err = m.writeFiles(c, rec); err != nil {
		return nil, err
	}
	if owner, err := m.netOwner(rec); err != nil {
		return nil, err
	} else if owner != nil {
		in.Network = fmt.Sprintf("/proc/%d/ns/net", owner.record().State.Pid)
	}
	if owner, err := m.owner(rec.HostConfig.PidMode, "PID"); err != nil {
		return nil, err
	} else if owner != nil {
		in.PID = fmt.Sprintf("/proc/%d/ns/pid", owner.record().State.Pid)
	}
	if in.Shm, in.IPC, err = m.shareIPC(rec); err != nil {
		return nil, err
	}
	s, err := spec.Build(in)
	if err != nil {
		return nil, err
	}
	if err := m.o.CDI.Inject(s, rec.HostConfig.DeviceRequests); err != nil {
		return nil, err
	}
	if err := spec.Seccomp(s, rec.HostConfig); err != nil {
		return nil, err
	}
	way, err := m.o.Qemu.Way(rec.Platform)
	if err != nil {
		return nil, refused(err)
	}
	return s, way.Edit(s)
}

// connect puts a created task into the container's networks and introduces it there.
func (m *Manager) connect(ctx context.Context, c *container, rec *Record, pid int) error {
	if err := m.join(ctx, rec, pid); err != nil {
		return err
	}
	rec.State.Running, rec.State.Pid = true, pid // as it will be
	return m.introduceAs(c, *rec)
}
