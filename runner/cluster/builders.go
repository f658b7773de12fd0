package cluster

import (
	"context"
	"net"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/runner/cluster/placement"
	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// Builders are the other nodes that run a platform natively, are ready and take tasks. ok is false where there are no other nodes, or
// they would not build for this one, as it is no manager.
func (c *Cluster) Builders(p ocispec.Platform) (all []topology.Member, ok bool) {
	m := c.current()
	if m == nil {
		return nil, false
	}
	st, hub := m.status(), m.hub.Load()
	if hub == nil {
		return nil, st.Manager // one that does not know the others yet
	}
	own := st.NodeID
	for _, b := range hub.Builders() {
		if b.ID == own {
			continue
		}
		ok = true
		if placement.RunsNatively(b.Description, p) {
			all = append(all, b.Member)
		}
	}
	return all, ok
}

// DialBuilder connects to BuildKit's API of another node.
func (c *Cluster) DialBuilder(ctx context.Context, node string) (net.Conn, error) {
	m := c.current()
	if m == nil {
		return nil, ErrNone
	}
	at, err := c.find(ctx, node)
	if err != nil {
		return nil, err
	}
	return topology.DialBuild(ctx, m.identity(), node, at)
}
