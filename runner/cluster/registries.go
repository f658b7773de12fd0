package cluster

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// attempts is how often a change of the cluster is tried that others change at the same time.
const attempts = 5

// ShareRegistries has all nodes believe what is told of registry hosts, beside what they believe already. On a worker only its own
// registries count: those at its name or address. Nothing happens outside of a cluster.
func (c *Cluster) ShareRegistries(ctx context.Context, all map[string]topology.Registry) error {
	m := c.current()
	if m == nil || len(all) == 0 {
		return nil
	}
	if manager, err := c.Manager(); err == nil {
		return shareBy(ctx, manager, all)
	}
	m.mu.Lock()
	n := m.node
	m.mu.Unlock()
	if n == nil {
		return ErrNone
	}
	return topology.TellRegistries(ctx, managers(n), m.identity(), all)
}

func shareBy(ctx context.Context, m Manager, all map[string]topology.Registry) (err error) {
	for range attempts {
		var found *api.ListClustersResponse
		if found, err = m.ListClusters(ctx, &api.ListClustersRequest{}); err != nil {
			return err
		}
		if len(found.Clusters) == 0 {
			return ErrNone
		}
		c := found.Clusters[0]
		labels, changed, lerr := topology.Labels(c.Spec, all)
		if lerr != nil || !changed {
			return lerr
		}
		c.Spec.Annotations.Labels = labels
		_, err = m.UpdateCluster(ctx, &api.UpdateClusterRequest{ClusterID: c.ID, ClusterVersion: &c.Meta.Version, Spec: &c.Spec})
		if err == nil || !strings.Contains(err.Error(), "update out of sequence") {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

// answers are what other nodes are answered beside the cluster's own.
func (m *member) answers() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(topology.RegistriesPath, topology.Sharer(m.hub.Load, m.c.ShareRegistries))
	if m.c.o.Build != nil {
		mux.Handle(topology.BuildPath, topology.ManagersOnly(m.c.o.Build))
	}
	if m.c.o.Blobs != nil {
		mux.Handle("/", m.c.o.Blobs)
	}
	return mux
}

// learn takes what a manager tells.
func (m *member) learn(u topology.Update) error {
	if u.Registries != nil && m.c.o.Trust != nil {
		if err := m.c.o.Trust(u.Registries); err != nil {
			m.c.o.Log.Warn("a registry that the cluster trusts is not trusted here", "error", err)
		}
	}
	return m.nets.learn(u)
}
