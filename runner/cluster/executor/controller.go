package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster/placement"
)

// controller is one task. It implements exec.Controller and the optional interfaces beside it.
type controller struct {
	*Executor
	task  *api.Task
	name  string // of its container
	deps  exec.DependencyGetter
	files string // where its secrets and configs lie

	ctx   context.Context // ends with Close
	close context.CancelFunc

	pulling sync.Mutex
	pulled  chan struct{} // closed at the end of the pull; nil before its begin
	pullErr error
	stop    context.CancelFunc
}

var (
	errUnhealthy = errors.New("unhealthy container")
	errGone      = errors.New("container destroyed")
)

// ended is how a task's container ended; cause may be nil.
type ended struct {
	code  int
	cause error
}

func (e *ended) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("task: non-zero exit (%d): %v", e.code, e.cause)
	}
	return fmt.Sprintf("task: non-zero exit (%d)", e.code)
}

// ExitCode implements exec.ExitCoder.
func (e *ended) ExitCode() int { return e.code }

// Unwrap returns the cause.
func (e *ended) Unwrap() error { return e.cause }

// Update implements exec.Controller: nothing of a task changes while it runs.
func (c *controller) Update(context.Context, *api.Task) error { return nil }

// Close implements exec.Controller. The container stays.
func (c *controller) Close() error {
	c.close()
	return nil
}

func (c *controller) closed() error {
	if c.ctx.Err() != nil {
		return exec.ErrControllerClosed
	}
	return nil
}

// Prepare implements exec.Controller: the image is here, and the container is made.
func (c *controller) Prepare(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	if _, err := c.o.Runner.Get(c.name); err == nil {
		return exec.ErrTaskPrepared
	}
	for _, at := range c.task.Networks {
		if predefined(at.Network) {
			continue
		}
		release, err := c.o.Join(ctx, at.Network)
		if err != nil {
			return err
		}
		defer release() // the container is there by then, and holds it
	}
	pullErr := c.pull(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	req, err := c.request()
	if err != nil {
		return err
	}
	_, _, err = c.o.Runner.Create(ctx, req)
	switch {
	case errdefs.IsConflict(err):
		if _, gone := c.o.Runner.Get(c.name); gone == nil {
			return exec.ErrTaskPrepared
		}
	case errdefs.IsNotFound(err) && pullErr != nil:
		return pullErr // that it is not here is a consequence
	}
	return err
}

// pull brings the newest image of the name here. That it fails matters only if there is none at all. A pull goes on when
// Prepare is called again meanwhile.
func (c *controller) pull(ctx context.Context) error {
	c.pulling.Lock()
	if c.pulled == nil {
		var pullCtx context.Context
		pullCtx, c.stop = context.WithCancel(c.ctx)
		c.pulled = make(chan struct{})
		spec := c.task.Spec.GetContainer()
		auth := ""
		if spec.PullOptions != nil {
			auth = spec.PullOptions.RegistryAuth
		}
		go func() {
			defer close(c.pulled)
			if c.pullErr = c.o.Pull(pullCtx, spec.Image, auth, c.platform()); c.pullErr != nil {
				c.o.Log.Warn("a task's image could not be pulled", "task", c.task.ID, "image", spec.Image, "error", c.pullErr)
			}
		}()
	}
	done := c.pulled
	c.pulling.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return c.pullErr
	}
}

// platform is which of the image's runs here.
func (c *controller) platform() *ocispec.Platform {
	return placement.Choose(c.description(), c.task.Spec.Placement)
}

func (c *controller) stopPull() {
	c.pulling.Lock()
	defer c.pulling.Unlock()
	if c.stop != nil {
		c.stop()
	}
}

// Start implements exec.Controller. A container with a health check has started when it is healthy.
func (c *controller) Start(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	rec, err := c.o.Runner.Get(c.name)
	if err != nil {
		return err
	}
	if rec.State.Status() != "created" {
		return exec.ErrTaskStarted
	}
	events, stop := c.events(ctx)
	defer stop()
	if err := c.o.Runner.Start(ctx, c.name); err != nil {
		return fmt.Errorf("starting container failed: %w", err)
	}
	if h := rec.Config.Healthcheck; h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil
	}
	return c.untilHealthy(ctx, events)
}

func (c *controller) untilHealthy(ctx context.Context, events <-chan runner.Event) (err error) {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return exec.ErrControllerClosed
		case e, ok := <-events:
			if !ok {
				return errors.New("the container's events have ended")
			}
			switch e.Action {
			case "die":
				code, _ := strconv.Atoi(e.Attributes["exitCode"])
				if code != 0 || err != nil {
					return &ended{code, err}
				}
				return nil
			case "destroy":
				return errGone
			case "health_status: healthy":
				return nil
			case "health_status: unhealthy":
				if serr := c.Shutdown(ctx); serr != nil {
					return fmt.Errorf("unhealthy container shutdown failed: %w", serr)
				}
				err = errUnhealthy
			}
		}
	}
}

// events are those of the task's container from now on.
func (c *controller) events(ctx context.Context) (<-chan runner.Event, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	all := c.o.Runner.Events(ctx, time.Time{})
	own := make(chan runner.Event, 16)
	go func() {
		defer close(own)
		for e := range all {
			if e.Type != "container" || e.Attributes["name"] != c.name {
				continue
			}
			select {
			case own <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return own, cancel
}

// Wait implements exec.Controller: until the container ends, which it is made to when it becomes unhealthy.
func (c *controller) Wait(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	events, stop := c.events(ctx)
	defer stop()
	unhealthy := make(chan struct{})
	go func() {
		for e := range events {
			if e.Action == "health_status: unhealthy" {
				close(unhealthy)
				_ = c.Shutdown(ctx)
				return
			}
		}
	}()
	waiter, err := c.o.Runner.Wait(c.name, runner.NotRunning)
	if err != nil {
		return err
	}
	code, err := waiter.Wait(ctx)
	if err != nil {
		return err
	}
	end := &ended{code: code}
	select {
	case <-unhealthy:
		end.cause = errUnhealthy
	default:
		if rec, err := c.o.Runner.Get(c.name); err == nil && rec.State.Error != "" {
			end.cause = errors.New(rec.State.Error)
		}
	}
	if end.code != 0 {
		return end
	}
	return nil
}

// drainTime is what all nodes take, with room, to hear that a task gets no new connections.
const drainTime = 500 * time.Millisecond

// drain waits, before a task that others reach by its service is told to end, until it gets no new connections.
func (c *controller) drain(ctx context.Context) {
	reached := slices.ContainsFunc(c.task.Networks, func(at *api.NetworkAttachment) bool { return !predefined(at.Network) })
	rec, err := c.o.Runner.Get(c.name)
	if err != nil || !reached || !rec.State.Running {
		return
	}
	select {
	case <-time.After(drainTime):
	case <-ctx.Done():
	}
}

// Shutdown implements exec.Controller.
func (c *controller) Shutdown(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	c.stopPull()
	c.drain(ctx)
	err := c.o.Runner.Stop(ctx, c.name, runner.StopOptions{})
	if errdefs.IsNotFound(err) || errdefs.IsNotModified(err) {
		return nil
	}
	return err
}

// Terminate implements exec.Controller.
func (c *controller) Terminate(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	c.stopPull()
	err := c.o.Runner.Kill(ctx, c.name, "KILL")
	if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil
	}
	return err
}

// Remove implements exec.Controller: nothing is left of the task here.
func (c *controller) Remove(ctx context.Context) error {
	if err := c.closed(); err != nil {
		return err
	}
	if err := c.Shutdown(ctx); err != nil {
		c.o.Log.Debug("stopping a task that is removed", "task", c.task.ID, "error", err)
	}
	err := c.o.Runner.Remove(ctx, c.name, runner.RemoveOptions{Force: true, Volumes: true})
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(c.files))
}

// ContainerStatus implements exec.ContainerStatuser; nil without a container.
func (c *controller) ContainerStatus(context.Context) (*api.ContainerStatus, error) {
	rec, err := c.o.Runner.Get(c.name)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.ContainerStatus{ContainerID: rec.ID, PID: int32(rec.State.Pid), ExitCode: int32(rec.State.ExitCode)}, nil
}

// PortStatus implements exec.PortStatuser: the ports of this node by which the task is reached.
func (c *controller) PortStatus(context.Context) (*api.PortStatus, error) {
	rec, err := c.o.Runner.Get(c.name)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &api.PortStatus{Ports: publishedOf(rec)}, nil
}
