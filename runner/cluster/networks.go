package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	gogotypes "github.com/gogo/protobuf/types"
	"github.com/moby/swarmkit/v2/api"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster/allocator"
	"github.com/gantry-build/gantry/runner/cluster/topology"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

const (
	// placeWait is how long a task waits until its node has a place in a network.
	placeWait = 20 * time.Second
	// dataPathPort is where VXLAN devices listen when the cluster says nothing else (RFC 7348, 5).
	dataPathPort = 4789
)

// networks are this node's part of the cluster's overlay networks: it makes those that its tasks are in, and has the kernel and the
// name servers know what managers tell of them. It is safe for concurrent use.
type networks struct {
	o     Options
	local func() netip.Addr // by which other nodes reach this one's containers

	making   sync.Mutex // by who makes or removes a network
	applying sync.Mutex // by who tells the kernel

	mu      sync.Mutex // guards what follows
	places  map[string]*api.NetworkAttachment
	port    uint16
	turn    chan struct{} // closed when places or what is known have changed
	known   map[string]topology.Network
	held    map[string]int    // networks for which tasks are made, of which the kernel knows nothing yet
	told    map[string]string // virtual addresses, by container and its process
	toldOff string            // of the mesh
}

func newNetworks(o Options, local func() netip.Addr) *networks {
	return &networks{
		o: o, local: local, turn: make(chan struct{}), known: map[string]topology.Network{}, held: map[string]int{},
		told: map[string]string{},
		port: dataPathPort,
	}
}

// configure takes what the cluster knows of this node. The network of published ports is on each node.
func (n *networks) configure(ctx context.Context, node *api.Node) error {
	places := map[string]*api.NetworkAttachment{}
	for _, at := range node.Attachments {
		if at.Network != nil && len(at.Addresses) > 0 {
			places[at.Network.ID] = at
		}
	}
	n.mu.Lock()
	n.places = places
	if node.VXLANUDPPort != 0 {
		n.port = uint16(node.VXLANUDPPort)
	}
	port := n.port
	n.changed()
	n.mu.Unlock()
	if n.o.Network == nil {
		return nil
	}
	var errs []error
	for _, at := range places {
		if at.Network.Spec.Ingress {
			errs = append(errs, n.make(ctx, at.Network, at, port))
		}
	}
	n.tidy()
	return errors.Join(errs...)
}

// join makes a network here, unless it is, and keeps it until release. It waits until this node has a place in it.
func (n *networks) join(ctx context.Context, of *api.Network) (release func(), err error) {
	n.mu.Lock()
	n.held[of.ID]++
	n.mu.Unlock()
	release = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.held[of.ID]--; n.held[of.ID] == 0 {
			delete(n.held, of.ID)
		}
	}
	if err := n.enter(ctx, of); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// enter is join, without keeping the network.
func (n *networks) enter(ctx context.Context, of *api.Network) error {
	ctx, cancel := context.WithTimeoutCause(ctx, placeWait, fmt.Errorf("network %s: the cluster's managers have given this node no "+
		"address in it; its subnet %s may be used up: make it anew with a larger one", of.Spec.Annotations.Name, subnetsOf(of)))
	defer cancel()
	for {
		n.mu.Lock()
		place, port, turn := n.places[of.ID], n.port, n.turn
		n.mu.Unlock()
		if place != nil {
			if err := n.make(ctx, of, place, port); err != nil {
				return err
			}
			n.untilKnown(ctx, of.ID)
			return nil
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func subnetsOf(n *api.Network) string {
	var all []string
	if n.IPAM != nil {
		for _, c := range n.IPAM.Configs {
			all = append(all, c.Subnet)
		}
	}
	return strings.Join(all, " and ")
}

// firstWord is how long a network's first task waits for what managers tell of it.
const firstWord = 3 * time.Second

// untilKnown waits until managers have told of a network, so that its first task finds what it asks for. None may be there.
func (n *networks) untilKnown(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, firstWord)
	defer cancel()
	for {
		n.mu.Lock()
		_, known := n.known[id]
		turn := n.turn
		n.mu.Unlock()
		if known {
			return
		}
		select {
		case <-turn:
		case <-ctx.Done():
			return
		}
	}
}

// changed wakes those who wait for a place, or for word of a network. The caller holds n.mu.
func (n *networks) changed() {
	close(n.turn)
	n.turn = make(chan struct{})
}

func (n *networks) make(ctx context.Context, of *api.Network, place *api.NetworkAttachment, port uint16) error {
	want, err := n.record(of, place, port)
	if err != nil {
		return err
	}
	n.making.Lock()
	defer n.making.Unlock()
	if have, err := n.o.Runner.NetworkOf(of.ID); err == nil && have.ID == of.ID {
		if sameOverlay(have.Config.Overlay, want.Config.Overlay) {
			// Its devices may be of an earlier daemon, which has taken them away at its end.
			return errors.Join(n.o.Runner.EnsureNetwork(ctx, of.ID), n.apply())
		}
		if err := n.o.Runner.RemoveNetwork(ctx, of.ID); err != nil { // the node's place has changed
			return err
		}
	}
	if _, err := n.o.Runner.CreateNetwork(ctx, want); err != nil && !errdefs.IsConflict(err) {
		return err
	}
	if have, err := n.o.Runner.NetworkOf(want.Name); err == nil && have.ID != of.ID {
		return fmt.Errorf("network %s: this machine has another network of this name; remove or rename it", want.Name)
	}
	return n.apply()
}

// speaks6 says whether a network that is here has IPv6: that of published ports may lack it where the network below is too narrow.
func (n *networks) speaks6(id string) bool {
	rec, err := n.o.Runner.NetworkOf(id)
	return err == nil && rec.Config.IPv6
}

func sameOverlay(a, b *network.Overlay) bool {
	return a != nil && a.Number == b.Number && a.Local == b.Local && a.Port == b.Port && slices.Equal(a.Node, b.Node)
}

// record is a cluster's network as one of this machine.
func (n *networks) record(of *api.Network, place *api.NetworkAttachment, port uint16) (runner.NetworkRecord, error) {
	spec := of.Spec
	rec := runner.NetworkRecord{
		ID: of.ID, Name: spec.Annotations.Name, Driver: network.DriverOverlay, Labels: spec.Annotations.Labels,
		Attachable: spec.Attachable, Ingress: spec.Ingress, Created: time.Now().UTC(),
	}
	if at, err := gogotypes.TimestampFromProto(of.Meta.CreatedAt); err == nil {
		rec.Created = at
	}
	if d := spec.DriverConfig; d != nil {
		rec.Options = d.Options
	}
	cfg := &rec.Config
	cfg.ICC, cfg.Internal, cfg.Masquerade = true, spec.Internal, !spec.Internal
	cfg.Overlay = &network.Overlay{Local: n.local(), Port: port, Number: allocator.NumberOf(of)}
	if text := rec.Options["com.docker.network.driver.mtu"]; text != "" {
		mtu, err := strconv.Atoi(text)
		if err != nil {
			return rec, fmt.Errorf("network %s: MTU %q is no number", rec.Name, text)
		}
		cfg.MTU = mtu
	}
	if of.IPAM == nil {
		return rec, fmt.Errorf("network %s has no addresses yet", rec.Name)
	}
	without6 := spec.Ingress && !spec.Ipv6Enabled && !network.HasRoomFor6(cfg.Overlay.Local)
	for _, c := range of.IPAM.Configs {
		subnet, err := netip.ParsePrefix(c.Subnet)
		if err != nil {
			return rec, fmt.Errorf("network %s: %w", rec.Name, err)
		}
		if without6 && subnet.Addr().Is6() {
			continue
		}
		gateway, _ := netip.ParseAddr(c.Gateway)
		cfg.IPAM = append(cfg.IPAM, ipam.Config{Subnet: subnet, Gateway: gateway})
		cfg.IPv4, cfg.IPv6 = cfg.IPv4 || subnet.Addr().Is4(), cfg.IPv6 || subnet.Addr().Is6()
	}
	for _, text := range place.Addresses {
		if p, err := netip.ParsePrefix(text); err == nil && (p.Addr().Is4() || cfg.IPv6) {
			cfg.Overlay.Node = append(cfg.Overlay.Node, p.Addr())
		}
	}
	return rec, nil
}

// learn takes what a manager tells.
func (n *networks) learn(u topology.Update) error {
	switch {
	case n.o.Network == nil:
		return nil
	case !u.Whole && len(u.Networks)+len(u.Gone) == 0:
		n.tidy() // a container may have gone since
		return nil
	}
	n.mu.Lock()
	gone := u.Gone
	if u.Whole {
		for id := range n.known {
			if !slices.ContainsFunc(u.Networks, func(k topology.Network) bool { return k.ID == id }) {
				gone = append(gone, id)
			}
		}
	}
	for _, id := range gone {
		delete(n.known, id)
	}
	for _, k := range u.Networks {
		n.known[k.ID] = k
	}
	n.mu.Unlock()
	if err := n.apply(); err != nil {
		return err
	}
	n.mu.Lock()
	n.changed()
	n.mu.Unlock()
	n.tidy()
	return nil
}

// tidy removes networks that this node is in no more, once it knows in which it is.
func (n *networks) tidy() {
	n.making.Lock()
	defer n.making.Unlock()
	for _, rec := range n.o.Runner.Networks() {
		if rec.Driver != network.DriverOverlay {
			continue
		}
		n.mu.Lock()
		_, known := n.known[rec.ID]
		_, placed := n.places[rec.ID]
		wait := n.places == nil || n.held[rec.ID] > 0
		n.mu.Unlock()
		if known || placed || wait || len(n.o.Runner.NetworkUsers(rec)) > 0 {
			continue
		}
		if err := n.o.Runner.RemoveNetwork(context.Background(), rec.ID); err != nil {
			n.o.Log.Warn("a network that this node is in no more could not be removed", "network", rec.Name, "error", err)
		}
	}
}

// snapshot are the known networks that are here.
func (n *networks) snapshot() (here []topology.Network) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, k := range n.known {
		here = append(here, k)
	}
	return here
}

// apply has the kernel and the name servers know what is known.
func (n *networks) apply() error {
	n.applying.Lock()
	defer n.applying.Unlock()
	return n.applyLocked()
}

// applyLocked is apply with n.applying held.
func (n *networks) applyLocked() error {
	var errs []error
	own := n.local()
	for _, k := range n.snapshot() {
		rec, err := n.o.Runner.NetworkOf(k.ID)
		if err != nil || rec.ID != k.ID {
			continue // no task of this node is in it yet
		}
		var peers []network.Peer
		for _, e := range k.Ends {
			if e.At != own {
				peers = append(peers, network.Peer{Addr: e.Addr, At: e.At, As: e.As})
			}
		}
		errs = append(errs, n.o.Runner.SetPeers(k.ID, peers))
		if k.Ingress {
			errs = append(errs, n.openMesh(k, rec, own))
		} else {
			n.o.Runner.SetNames(k.ID, namesIn(k, own))
		}
	}
	var telling errgroup.Group
	telling.SetLimit(16)
	for _, rec := range n.o.Runner.List() {
		if rec.State.Running && rec.State.Pid != 0 {
			telling.Go(func() error { return n.tell(rec) })
		}
	}
	errs = append(errs, telling.Wait())
	n.forgetEnded()
	return errors.Join(errs...)
}

// forgetEnded forgets what containers have been told that run no more.
func (n *networks) forgetEnded() {
	lives := map[string]bool{}
	for _, rec := range n.o.Runner.List() {
		lives[keyOf(rec)] = rec.State.Running
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.told, func(key, _ string) bool { return !lives[key] })
}

// keyOf names a container's run.
func keyOf(rec runner.Record) string { return fmt.Sprint(rec.ID, "/", rec.State.Pid) }
