package executor

import (
	"context"

	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
)

// Attachments are told of places in networks that the cluster has given to containers which are no tasks of it.
type Attachments struct {
	Came  func(*api.Task)                  // its network is here
	Watch func(context.Context, *api.Task) // as long as the place is there
}

// attachment implements exec.Controller for such a place: there is nothing to run.
type attachment struct {
	*Executor
	task  *api.Task
	ctx   context.Context // ends with Close
	close context.CancelFunc
}

func (a *attachment) Update(context.Context, *api.Task) error { return nil }
func (a *attachment) Prepare(context.Context) error           { return nil }
func (a *attachment) Shutdown(context.Context) error          { a.close(); return nil }
func (a *attachment) Terminate(context.Context) error         { a.close(); return nil }
func (a *attachment) Remove(context.Context) error            { a.close(); return nil }
func (a *attachment) Close() error                            { a.close(); return nil }

// Start makes the network here.
func (a *attachment) Start(ctx context.Context) error {
	release, err := a.o.Join(ctx, a.task.Networks[0].Network)
	if err != nil {
		return err
	}
	context.AfterFunc(a.ctx, release)
	a.o.Attachments.Came(a.task)
	return nil
}

// Wait lasts as long as the place.
func (a *attachment) Wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	a.o.Attachments.Watch(ctx, a.task)
	<-ctx.Done()
	if a.ctx.Err() != nil {
		return nil
	}
	return ctx.Err()
}

var _ exec.Controller = (*attachment)(nil)
