package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc"

	"github.com/gantry-build/gantry/runner"
)

// publish tells of the cluster's changes as events of the runner's, with Docker's names, as long as this node manages it.
func (m *member) publish(ctx context.Context, conn *grpc.ClientConn) {
	const all = api.WatchActionKindCreate | api.WatchActionKindUpdate | api.WatchActionKindRemove
	req := &api.WatchRequest{IncludeOldObject: true}
	for _, kind := range []string{"node", "service", "network", "secret", "config"} {
		req.Entries = append(req.Entries, &api.WatchRequest_WatchEntry{Kind: kind, Action: all})
	}
	stream, err := api.NewWatchClient(conn).Watch(ctx, req)
	for err == nil {
		var got *api.WatchMessage
		if got, err = stream.Recv(); err != nil {
			break
		}
		for _, e := range got.Events {
			if event, ok := eventOf(e); ok {
				m.c.o.Runner.Publish(event)
			}
		}
	}
	if ctx.Err() == nil {
		m.c.o.Log.Debug("the cluster's events have ended", "error", err)
	}
}

// changes are attributes of an update: what was, and what is.
type changes map[string]string

func (c changes) note(what string, before, now any) {
	if before != now {
		c[what+".old"], c[what+".new"] = strings.ToLower(fmt.Sprint(before)), strings.ToLower(fmt.Sprint(now))
	}
}

func eventOf(e *api.WatchMessage_Event) (runner.Event, bool) {
	out := runner.Event{Swarm: true, Attributes: map[string]string{}}
	var meta api.Meta
	switch o := e.Object.GetObject().(type) {
	case *api.Object_Node:
		out.Type, out.ID, meta = "node", o.Node.ID, o.Node.Meta
		out.Attributes["name"] = nodeName(o.Node)
		nodeChanges(out.Attributes, e.OldObject.GetNode(), o.Node)
	case *api.Object_Service:
		out.Type, out.ID, meta = "service", o.Service.ID, o.Service.Meta
		out.Attributes["name"] = o.Service.Spec.Annotations.Name
		serviceChanges(out.Attributes, e.OldObject.GetService(), o.Service)
	case *api.Object_Network:
		out.Type, out.ID, meta = "network", o.Network.ID, o.Network.Meta
		out.Attributes["name"] = o.Network.Spec.Annotations.Name
	case *api.Object_Secret:
		out.Type, out.ID, meta = "secret", o.Secret.ID, o.Secret.Meta
		out.Attributes["name"] = o.Secret.Spec.Annotations.Name
	case *api.Object_Config:
		out.Type, out.ID, meta = "config", o.Config.ID, o.Config.Meta
		out.Attributes["name"] = o.Config.Spec.Annotations.Name
	default:
		return out, false
	}
	at := (*gogotypes.Timestamp)(nil)
	switch e.Action {
	case api.WatchActionKindCreate:
		out.Action, at = "create", meta.CreatedAt
	case api.WatchActionKindUpdate:
		out.Action, at = "update", meta.UpdatedAt
	case api.WatchActionKindRemove:
		out.Action = "remove"
	default:
		return out, false
	}
	out.Time = time.Now()
	if t, err := gogotypes.TimestampFromProto(at); err == nil {
		out.Time = t
	}
	return out, true
}

func nodeName(n *api.Node) string {
	if n.Spec.Annotations.Name == "" && n.Description != nil {
		return n.Description.Hostname
	}
	return n.Spec.Annotations.Name
}

func nodeChanges(c changes, before, now *api.Node) {
	if before == nil {
		return
	}
	c.note("availability", before.Spec.Availability, now.Spec.Availability)
	c.note("role", before.Role, now.Role)
	c.note("state", before.Status.State, now.Status.State)
	if a, b := before.ManagerStatus, now.ManagerStatus; a != nil && b != nil {
		c.note("leader", a.Leader, b.Leader)
		c.note("reachability", a.Reachability, b.Reachability)
	}
}

func serviceChanges(c changes, before, now *api.Service) {
	if before == nil {
		return
	}
	if a, b := before.Spec.Task.GetContainer(), now.Spec.Task.GetContainer(); a != nil && b != nil && a.Image != b.Image {
		c["image.old"], c["image.new"] = a.Image, b.Image
	}
	if a, b := before.Spec.GetReplicated(), now.Spec.GetReplicated(); a != nil && b != nil {
		c.note("replicas", a.Replicas, b.Replicas)
	}
	switch a, b := before.UpdateStatus, now.UpdateStatus; {
	case b == nil:
	case a == nil:
		c["updatestate.new"] = strings.ToLower(b.State.String())
	default:
		c.note("updatestate", a.State, b.State)
	}
}
