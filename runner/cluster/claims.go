package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/swarmkit/v2/agent"
	"github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// claims are the places of plain containers in attachable networks: for each, the cluster has a task of its own kind, by which
// SwarmKit gives the container its addresses. It implements runner.Places.
type claims struct {
	o     Options
	agent func() *agent.Agent // nil when there is none

	mu      sync.Mutex
	waiting map[string]chan *api.Task // by what a claim is called
}

// Take implements runner.Places.
func (c *claims) Take(ctx context.Context, asked runner.Claim) (runner.Place, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, placeWait, fmt.Errorf("network %s: the cluster's managers have given the container no "+
		"place in it", asked.Network))
	defer cancel()
	a := c.agent()
	for a == nil { // the node is starting
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return runner.Place{}, context.Cause(ctx)
		}
		a = c.agent()
	}
	called := topology.ClaimName(asked.Container, rand.Text()[:8], asked.Names)
	given := make(chan *api.Task, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.waiting = map[string]chan *api.Task{}
	}
	c.waiting[called] = given
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, called)
		c.mu.Unlock()
	}()
	var addrs []string
	for _, ip := range asked.Addrs {
		addrs = append(addrs, ip.String())
	}
	id, err := a.ResourceAllocator().AttachNetwork(ctx, called, asked.Network, addrs)
	if err != nil {
		return runner.Place{}, errgrpc.ToNative(err)
	}
	select {
	case t := <-given:
		return placeOf(t), nil
	case <-ctx.Done():
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), placeWait)
		defer cancel()
		_ = a.ResourceAllocator().DetachNetwork(giving, id)
		return runner.Place{}, context.Cause(ctx)
	}
}

func placeOf(t *api.Task) runner.Place {
	at := t.Networks[0]
	place := runner.Place{ID: t.ID, Network: at.Network.ID}
	for _, text := range at.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil {
			place.Addrs = append(place.Addrs, p.Addr())
		}
	}
	return place
}

// Give implements runner.Places.
func (c *claims) Give(ctx context.Context, id string) error {
	a := c.agent()
	if a == nil {
		return ErrNone
	}
	ctx, cancel := context.WithTimeout(ctx, placeWait)
	defer cancel()
	return errgrpc.ToNative(a.ResourceAllocator().DetachNetwork(ctx, id))
}

// came tells who waits for a claim that it has got its place. The network is here.
func (c *claims) came(t *api.Task) {
	c.mu.Lock()
	given := c.waiting[t.Spec.GetAttachment().ContainerID]
	c.mu.Unlock()
	if given != nil {
		select {
		case given <- t:
		default: // it knows
		}
	}
}

// held says whether a container still has a place, or is about to get it.
func (c *claims) held(t *api.Task) bool {
	c.mu.Lock()
	_, waits := c.waiting[t.Spec.GetAttachment().ContainerID]
	c.mu.Unlock()
	return waits || slices.ContainsFunc(c.o.Runner.List(), func(rec runner.Record) bool {
		return slices.ContainsFunc(rec.Attachments, func(a runner.Attachment) bool { return a.Place != nil && a.Place.ID == t.ID })
	})
}

// abandonedAfter is how long a place may have no container: the daemon may have died between the two.
const abandonedAfter = 30 * time.Second

// watch gives a place back that no container has.
func (c *claims) watch(ctx context.Context, t *api.Task) {
	for lost := time.Duration(0); ; {
		const pause = abandonedAfter / 3
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if lost += pause; c.held(t) {
			lost = 0
		}
		if lost < abandonedAfter {
			continue
		}
		if err := c.Give(ctx, t.ID); err == nil {
			c.o.Log.Info("a place in a network that no container has was given back", "network",
				t.Networks[0].Network.Spec.Annotations.Name, "for", strings.SplitN(t.Spec.GetAttachment().ContainerID, "/", 2)[0])
			return
		}
	}
}
