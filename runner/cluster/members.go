package cluster

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// others are the nodes of the cluster, as this one knows them.
type others struct {
	mu    sync.Mutex
	all   []topology.Member
	asked time.Time
}

// fresh is for how long what is known of the other nodes is taken for true.
const fresh = 3 * time.Second

// Members are the cluster's other nodes that are ready; what was known last when no manager answers, and none outside of a cluster.
func (c *Cluster) Members(ctx context.Context) ([]topology.Member, error) {
	m := c.current()
	if m == nil {
		return nil, nil
	}
	m.mu.Lock()
	n := m.node
	m.mu.Unlock()
	if n == nil {
		return nil, nil
	}
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	if time.Since(m.others.asked) < fresh {
		return m.others.all, nil
	}
	var all []topology.Member
	var err error
	if hub := m.hub.Load(); hub != nil {
		all = hub.Members()
	} else {
		all, err = topology.AskMembers(ctx, managers(n), m.identity())
	}
	if err != nil {
		m.c.o.Log.Debug("no manager tells which nodes there are", "error", err)
		return m.others.all, ctx.Err()
	}
	m.others.all, m.others.asked = nil, time.Now()
	for _, o := range all {
		if o.ID != n.NodeID() {
			m.others.all = append(m.others.all, o)
		}
	}
	return m.others.all, nil
}

// Transport reaches other nodes, at https://ID/ each, by the cluster's mutual TLS.
func (c *Cluster) Transport() http.RoundTripper { return &roundTripper{c: c} }

// roundTripper keeps the connections of one membership.
type roundTripper struct {
	c *Cluster

	mu    sync.Mutex
	of    *member
	conns *http.Transport
}

func (r *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	m := r.c.current()
	if m == nil {
		return nil, ErrNone
	}
	r.mu.Lock()
	if r.of != m {
		if r.conns != nil {
			r.conns.CloseIdleConnections()
		}
		r.of, r.conns = m, topology.Transport(m.identity(), r.c.find)
	}
	conns := r.conns
	r.mu.Unlock()
	return conns.RoundTrip(req)
}

// find is where a node is reached, HOST:PORT.
func (c *Cluster) find(ctx context.Context, node string) (string, error) {
	all, err := c.Members(ctx)
	if err != nil {
		return "", err
	}
	for _, o := range all {
		if o.ID == node {
			return o.At, nil
		}
	}
	return "", errdefs.ErrNotFound.WithMessage("it is not ready, or not of this cluster")
}
