package command

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/registry/peer"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/solver"
	"github.com/gantry-build/gantry/solver/farm"
)

// nodes is what the rooms that are opened before the cluster may ask of its other nodes.
type nodes struct {
	d     *daemon
	peers *peer.Client
}

func (d *daemon) openNodes() {
	n := &nodes{d: d}
	reach := sync.OnceValue(func() http.RoundTripper { return d.cluster.Transport() })
	n.peers = &peer.Client{
		Content: d.store.Client.ContentStore(), Nodes: n.members, Log: d.log,
		HTTP: &http.Client{Transport: roundTrips(func(r *http.Request) (*http.Response, error) { return reach().RoundTrip(r) })},
	}
	d.nodes = n
}

// roundTrips is a function as a transport.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// members are the other nodes, as those who ask for blobs know them.
func (n *nodes) members(ctx context.Context) (all []peer.Node, err error) {
	if n.d.cluster == nil {
		return nil, nil
	}
	found, err := n.d.cluster.Members(ctx)
	for _, m := range found {
		all = append(all, peer.Node{ID: m.ID, Name: m.Name})
	}
	return all, err
}

// hosts are a registry's, with the cluster's nodes before them for what is asked for by its digest.
func (n *nodes) hosts(registry docker.RegistryHosts) docker.RegistryHosts {
	return func(host string) ([]docker.RegistryHost, error) {
		all, err := registry(host)
		for i, h := range all {
			next := h.Client.Transport
			own := *h.Client
			own.Transport = roundTrips(func(r *http.Request) (*http.Response, error) {
				if n.d.cluster == nil || n.d.cluster.Status().State == cluster.Inactive {
					return next.RoundTrip(r)
				}
				return n.peers.Transport(next).RoundTrip(r)
			})
			all[i].Client = &own
		}
		return all, err
	}
}

// farm has steps run on nodes that run their platform natively.
func (n *nodes) farm() *solver.Farm {
	return &solver.Farm{
		Blobs: n.peers, Log: n.d.log,
		Nodes: func(_ context.Context, p ocispec.Platform) (all []farm.Node, ok bool) {
			if n.d.cluster == nil {
				return nil, false
			}
			found, ok := n.d.cluster.Builders(p)
			for _, m := range found {
				dial := func(ctx context.Context) (net.Conn, error) { return n.d.cluster.DialBuilder(ctx, m.ID) }
				all = append(all, farm.Node{ID: m.ID, Name: m.Name, Dial: dial})
			}
			return all, ok
		},
	}
}
