package api

import (
	"errors"
	"io"
	"net/http"

	gogotypes "github.com/gogo/protobuf/types"
	swarmapi "github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/logs"
)

// clusterLogs streams the logs of tasks, wherever they run.
func clusterLogs(m cluster.Manager, w http.ResponseWriter, r *http.Request, of *swarmapi.LogSelector, tty bool) error {
	q, err := logQuery(r)
	if err != nil {
		return err
	}
	o := &swarmapi.LogSubscriptionOptions{Follow: q.Follow}
	if q.Stdout {
		o.Streams = append(o.Streams, swarmapi.LogStreamStdout)
	}
	if q.Stderr {
		o.Streams = append(o.Streams, swarmapi.LogStreamStderr)
	}
	if q.Tail >= 0 { // 0 would be all of it
		o.Tail = -int64(q.Tail) - 1
	}
	if !q.Since.IsZero() {
		if o.Since, err = gogotypes.TimestampProto(q.Since); err != nil {
			return err
		}
	}
	stream, err := m.Logs.SubscribeLogs(r.Context(), &swarmapi.SubscribeLogsRequest{Selector: of, Options: o})
	if err != nil {
		return err
	}
	out := &logStream{w: w, tty: tty, timestamps: flag(r, "timestamps"), details: flag(r, "details")}
	out.begin()
	for {
		got, err := stream.Recv()
		if errors.Is(err, io.EOF) || r.Context().Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, line := range got.Messages {
			if err := out.send(entryOf(line)); err != nil {
				return nil // the client has gone
			}
		}
	}
}

func entryOf(l swarmapi.LogMessage) logs.Entry {
	e := logs.Entry{Log: string(l.Data), Stream: "stdout", Attrs: about(l)}
	if l.Stream == swarmapi.LogStreamStderr {
		e.Stream = "stderr"
	}
	if l.Timestamp != nil {
		e.Time, _ = gogotypes.TimestampFromProto(l.Timestamp) // zero when it is out of range
	}
	return e
}
