package executor

import (
	"context"
	"fmt"
	"slices"
	"time"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"golang.org/x/time/rate"

	"github.com/gantry-build/gantry/runner/logs"
)

// logRate bounds what a node sends of one container's log, in bytes a second.
const logRate = 10 << 20

// Logs implements exec.ControllerLogs.
func (c *controller) Logs(ctx context.Context, to exec.LogPublisher, o api.LogSubscriptionOptions) error {
	if err := c.closed(); err != nil {
		return err
	}
	if o.Follow {
		if err := c.untilStarted(ctx); err != nil {
			return fmt.Errorf("container not ready for logs: %w", err)
		}
	}
	q, err := query(o)
	if err != nil {
		return err
	}
	about := api.LogContext{NodeID: c.task.NodeID, ServiceID: c.task.ServiceID, TaskID: c.task.ID}
	limit := rate.NewLimiter(logRate, logRate)
	return c.o.Runner.Logs(ctx, c.name, q, func(e logs.Entry) error {
		if err := limit.WaitN(ctx, min(len(e.Log), logRate)); err != nil {
			return err
		}
		at, err := gogotypes.TimestampProto(e.Time)
		if err != nil {
			return err
		}
		m := api.LogMessage{Context: about, Timestamp: at, Data: []byte(e.Log), Stream: api.LogStreamStdout}
		if e.Stream == "stderr" {
			m.Stream = api.LogStreamStderr
		}
		for k, v := range e.Attrs {
			m.Attrs = append(m.Attrs, api.LogAttr{Key: k, Value: v})
		}
		return to.Publish(ctx, m)
	})
}

// query is what is asked for. SwarmKit's tail is 0 for all, and below that one more than the number of lines.
func query(o api.LogSubscriptionOptions) (q logs.Query, err error) {
	all := len(o.Streams) == 0
	q = logs.Query{
		Follow: o.Follow, Tail: -1,
		Stdout: all || slices.Contains(o.Streams, api.LogStreamStdout),
		Stderr: all || slices.Contains(o.Streams, api.LogStreamStderr),
	}
	if o.Since != nil {
		if q.Since, err = gogotypes.TimestampFromProto(o.Since); err != nil {
			return q, err
		}
	}
	if o.Tail < 0 {
		q.Tail = int(-o.Tail) - 1
	}
	return q, nil
}

// untilStarted waits until there is a container that has run.
func (c *controller) untilStarted(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if rec, err := c.o.Runner.Get(c.name); err == nil && !rec.State.StartedAt.IsZero() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return exec.ErrControllerClosed
		case <-tick.C:
		}
	}
}
