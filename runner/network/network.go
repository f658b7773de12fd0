package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Port is one published port. A zero HostIP (or 0.0.0.0) means every address of the host; a zero HostPort asks for
// a free one of the host's ephemeral range; Proto is tcp, udp or sctp, and tcp when empty.
type Port struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	HostPortEnd   uint16     `json:"hostPortEnd,omitzero"` // a free one from HostPort to here; 0: HostPort itself
	ContainerPort uint16     `json:"containerPort"`
	Proto         string     `json:"proto"`
}

// Request asks for a place on a network. Only ID and PID are needed.
type Request struct {
	ID        string // of the container
	PID       int    // of a process in its network namespace, which must not be the host's
	Ports     []Port // to publish
	IP, IP6   netip.Addr
	LinkLocal []netip.Addr // further addresses, of its link only
	MAC       net.HardwareAddr
	Interface string   // its name in the container; empty: the next free one
	Sysctls   []string // net.X.Y.IFNAME.Z=VALUE, IFNAME being replaced by the interface's name
}

// Endpoint is a container's place on a network, with the host ports really in use. What concerns a family that the
// network does not speak is zero.
type Endpoint struct {
	ID         string
	IP         netip.Addr
	PrefixLen  int
	Gateway    netip.Addr // zero where there is no way out
	IP6        netip.Addr `json:",omitzero"`
	PrefixLen6 int        `json:",omitempty"`
	Gateway6   netip.Addr `json:",omitzero"`
	MAC        net.HardwareAddr
	Ports      []Port
	Interface  string `json:",omitempty"` // its name in the container
	Sandbox    string // path of the network namespace while the container's first process lives
}

// Network is one network. All methods may be called from many goroutines; operations on one container id follow each
// other, those on different ids run side by side.
type Network struct {
	host  *Host
	cfg   Config
	store store
	log   *slog.Logger

	// Guarded by host.devices:
	configured bool                  // the device has been configured by this process
	vxlan      int                   // index of an overlay's device to other nodes; 0: there is none yet
	peers      map[netip.Addr]remote // what it has been told of them; nil: look

	mu     sync.Mutex   // guards what follows
	pools  []*ipam.Pool // none until a subnet is known
	leases map[string]lease
	busy   map[string]chan struct{}
}

// open reads the state of a network.
func open(h *Host, c Config, dir string) (*Network, error) {
	st, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	n := &Network{
		host: h, cfg: c, store: st, log: h.log.With("network", c.Name),
		leases: map[string]lease{}, busy: map[string]chan struct{}{},
	}
	return n, n.load()
}

// load fills the pools and the leases from the configuration and the state directory.
func (n *Network) load() error {
	leases, err := n.store.leases(n.log)
	if err != nil {
		return err
	}
	if n.cfg.ID == DefaultID {
		subnet, err := n.store.subnet()
		if err != nil {
			return err
		}
		switch own := n.cfg.IPAM; {
		case len(own) == 0 && !subnet.IsValid():
			return nil
		case len(own) == 0:
			n.pools, err = poolsOf([]ipam.Config{{Subnet: subnet}})
		case subnet.IsValid() && subnet != own[0].Subnet && len(leases) > 0:
			return fmt.Errorf("network %s has %d containers in %s: stop them before changing its subnet to %s",
				n.cfg.Device, len(leases), subnet, own[0].Subnet)
		}
		if err != nil {
			return err
		}
	}
	if n.pools == nil {
		if n.pools, err = poolsOf(n.cfg.IPAM); err != nil {
			return err
		}
	}
	for _, l := range leases {
		if err := n.retake(l); err != nil {
			n.log.Warn("dropping a lease that does not fit its network", "container", l.ID, "error", err)
			n.store.drop(l.ID)
			continue
		}
		n.leases[l.ID] = l
	}
	return nil
}

func poolsOf(all []ipam.Config) (pools []*ipam.Pool, err error) {
	for _, c := range all {
		p, err := ipam.New(c)
		if err != nil {
			return nil, err
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// elements lists the published ports of all leases.
func (n *Network) elements() (es []element) {
	for _, l := range n.snapshot() {
		es = append(es, elementsOf(l)...)
	}
	return es
}

// Config is what the network was made of.
func (n *Network) Config() Config { return n.cfg }

// Device is the name of the network's device on the host.
func (n *Network) Device() string { return n.cfg.Device }

// Subnet returns the network's IPv4 addresses; it is zero for the default network until its first Attach has chosen them.
func (n *Network) Subnet() netip.Prefix {
	p, _ := n.poolOf(true)
	return p.Subnet
}

// Gateway returns the host's IPv4 address on the network; it is zero until Up or the first Attach.
func (n *Network) Gateway() netip.Addr {
	p, _ := n.poolOf(true)
	return p.Gateway
}

// IPAM returns the subnets with what was chosen of them.
func (n *Network) IPAM() (all []ipam.Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, p := range n.pools {
		c := ipam.Config{Subnet: p.Subnet}
		if i < len(n.cfg.IPAM) {
			c = n.cfg.IPAM[i]
		}
		c.Gateway = p.Gateway
		all = append(all, c)
	}
	return all
}

// Usage is how many addresses of a subnet are taken, by whomever, and how many are left to be handed out.
func (n *Network) Usage(subnet netip.Prefix) (taken, free uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pools {
		if p.Subnet == subnet {
			return p.Usage()
		}
	}
	return 0, 0
}

// poolOf is the first pool of a family: only its Subnet and Gateway, which never change, may be used.
func (n *Network) poolOf(is4 bool) (ipam.Pool, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pools {
		if p.Subnet.Addr().Is4() == is4 {
			return ipam.Pool{Subnet: p.Subnet, Gateway: p.Gateway}, true
		}
	}
	return ipam.Pool{}, false
}

func (n *Network) subnets() (all []netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pools {
		all = append(all, p.Subnet)
	}
	return all
}

// Endpoint returns the endpoint of a container, and whether it has one.
func (n *Network) Endpoint(id string) (Endpoint, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, ok := n.leases[id]
	if !ok {
		return Endpoint{}, false
	}
	return n.endpoint(l), true
}

// endpoint is called with n.mu held.
func (n *Network) endpoint(l lease) Endpoint {
	ep := Endpoint{ID: l.ID, IP: l.IP, IP6: l.IP6, MAC: l.mac(), Ports: l.Ports, Interface: l.Interface, Sandbox: sandboxPath(l.PID)}
	for _, p := range n.pools {
		way := p.Gateway
		if n.cfg.Internal {
			way = netip.Addr{}
		}
		if l.IP.IsValid() && p.Subnet.Contains(l.IP) {
			ep.PrefixLen, ep.Gateway = p.Subnet.Bits(), way
		}
		if l.IP6.IsValid() && p.Subnet.Contains(l.IP6) {
			ep.PrefixLen6, ep.Gateway6 = p.Subnet.Bits(), way
		}
	}
	return ep
}

// begin waits until no operation on id runs and marks one as running until the returned function is called.
func (n *Network) begin(ctx context.Context, id string) (end func(), err error) {
	for {
		n.mu.Lock()
		running, busy := n.busy[id]
		if !busy {
			done := make(chan struct{})
			n.busy[id] = done
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.busy, id)
				n.mu.Unlock()
				close(done)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (n *Network) snapshot() []lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]lease, 0, len(n.leases))
	for _, l := range n.leases {
		all = append(all, l)
	}
	return all
}

// keepOnly forgets the leases of containers that do not run.
func (n *Network) keepOnly(running []string) {
	for _, l := range n.snapshot() {
		if !l.fleeting && !slices.Contains(running, l.ID) {
			n.log.Debug("forgetting the lease of a container that is gone", "container", l.ID)
			n.forget(l)
		}
	}
}

// bindPorts binds the published ports again, whose sockets ended with the earlier process.
func (n *Network) bindPorts() {
	for _, l := range n.snapshot() {
		if err := n.host.ports.adopt(n.owner(l.ID), l.Ports); err != nil {
			n.log.Warn("a published port is also used by a program on the host", "container", l.ID, "error", err)
		}
	}
}

// remove takes the network off the host, and forgets it.
func (n *Network) remove() error {
	if err := n.clear(); err != nil {
		return err
	}
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	delete(n.host.networks, n.cfg.ID)
	return nil
}

// clear takes the network off the host: interfaces, device, its part of the table, and the leases.
func (n *Network) clear() error {
	n.host.devices.Lock()
	defer n.host.devices.Unlock()
	n.host.reaper.awaitAll()
	var gone []element
	for _, l := range n.snapshot() {
		gone = append(gone, elementsOf(l)...)
		n.host.ports.release(n.owner(l.ID))
	}
	err := n.removeDevices()
	if n.cfg.bridged() {
		err = errors.Join(err, n.host.rules.forget(n.cfg.Device, gone), n.host.passDroppers())
	}
	if err == nil {
		err = n.store.remove()
	}
	if err != nil {
		return fmt.Errorf("removing network %s: %w", n.cfg.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.leases)
	n.configured = false
	n.pools, err = poolsOf(n.cfg.IPAM)
	return err
}
