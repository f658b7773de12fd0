package cluster

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/ca"
	"github.com/moby/swarmkit/v2/node"

	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// describe is what the cluster is told of this node: what the machine is, and by which address others reach its containers.
func (m *member) describe() *api.NodeDescription {
	d := m.c.o.Describe()
	if d.Engine == nil {
		d.Engine = &api.EngineDescription{}
	}
	topology.Describe(d, m.dataPath())
	return d
}

// dataPath is the address by which other nodes reach this one's containers: the one that was named for it, the one by which they
// reach the node, or the one from which it reaches its manager.
func (m *member) dataPath() netip.Addr {
	for _, text := range []string{m.start.DataPath, m.start.Advertise} {
		if text == "" {
			continue
		}
		if host, _, err := resolve(text, DefaultPort); err == nil {
			if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
				return a
			}
		}
	}
	if m.start.Remote != "" {
		if a, err := topology.LocalTo(m.start.Remote); err == nil {
			return a
		}
	}
	return netip.Addr{}
}

// Certificate is this node's, as PEM; nil when it has none.
func (c *Cluster) Certificate() []byte {
	text, _ := os.ReadFile(ca.NewConfigPaths(filepath.Join(c.nodeDir(), "certificates")).Node.Cert)
	return text
}

func (m *member) identity() topology.Identity {
	return topology.Identity{
		Dir: filepath.Join(m.c.nodeDir(), "certificates"),
		Key: func() []byte { return m.c.key(m.ctx, m) },
	}
}

// serve answers other nodes where this one is reached: with what is on the cluster's networks when it is a manager, and with blobs.
func (m *member) serve(ctx context.Context, n *node.Node) {
	select {
	case <-n.Ready():
	case <-ctx.Done():
		return
	}
	host, _, err := net.SplitHostPort(m.start.Listen)
	if err != nil {
		host = ""
	}
	address := net.JoinHostPort(host, strconv.Itoa(topology.ListenPort))
	for ctx.Err() == nil {
		if err := topology.Serve(ctx, address, m.hub.Load, m.answers(), m.identity(), m.c.o.Log); err != nil && ctx.Err() == nil {
			m.c.o.Log.Warn("other nodes are not answered", "address", address, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(lastDelay / 10):
		}
	}
}

// follow learns what is on the cluster's networks, as soon as this node is a member.
func (m *member) follow(ctx context.Context, n *node.Node) {
	select {
	case <-n.Ready():
	case <-ctx.Done():
		return
	}
	topology.Follow(ctx, n.NodeID(), m.hub.Load, func() []string { return managers(n) }, m.identity(), m.learn, m.c.o.Log)
}

// managers are where a node may ask managers, each HOST:PORT.
func managers(n *node.Node) (all []string) {
	for _, p := range n.Remotes() {
		if host, _, err := net.SplitHostPort(p.Addr); err == nil {
			all = append(all, net.JoinHostPort(host, strconv.Itoa(topology.ListenPort)))
		}
	}
	return all
}
