// Package network gives containers their default network: one bridge device, one veth pair per container, and one
// nftables table with address translation for what leaves the subnet and for published ports.
//
// It programs the kernel directly through netlink and nftables, runs no external program, and touches only the
// device and the table it was given by name, so that it lives beside other engines and beside a host firewall.
// A container's network namespace is made by the runtime; Attach puts one end of a veth pair into it between
// create and start, and the pair dies with the namespace, so a crash leaves nothing behind on the container's side.
//
// Words: an Endpoint is a container's place on the network; a lease is an endpoint written to the state directory;
// a published port is a port of the host that leads to a port of a container. The package speaks IPv4 only.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Options say which bridge network to open. Two networks on one machine need different Names, Tables and States.
type Options struct {
	Name   string       // name of the bridge device, at most 15 characters
	Table  string       // name of the nftables table (family ip)
	Subnet netip.Prefix // addresses of the network; zero: a free one is chosen once and kept in State
	State  string       // directory of the leases, made when missing
	MTU    int          // zero: the MTU of the device of the host's default route

	// Namespace makes the network namespace of a sandbox, one that emulated programs own; its caller
	// closes it. Where it is nil or fails, sandboxes belong to the host's user namespace.
	Namespace func() (*os.File, error)
}

// Port is one published port. A zero HostIP (or 0.0.0.0) means every address of the host; a zero HostPort asks for
// a free one of the host's ephemeral range; Proto is tcp, udp or sctp, and tcp when empty.
type Port struct {
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	HostPortEnd   uint16     `json:"hostPortEnd,omitzero"` // a free one from HostPort to here; 0: HostPort itself
	ContainerPort uint16     `json:"containerPort"`
	Proto         string     `json:"proto"`
}

// Endpoint is a container's place on the network, with the host ports really in use.
type Endpoint struct {
	ID        string
	IP        netip.Addr
	PrefixLen int
	Gateway   netip.Addr
	MAC       net.HardwareAddr
	Ports     []Port
	Sandbox   string // path of the network namespace while the container's first process lives
}

// Bridge is one bridge network. All methods may be called from many goroutines; operations on one container id
// follow each other, those on different ids run side by side.
type Bridge struct {
	opts   Options
	store  store
	log    *slog.Logger
	rules  *ruleset
	ports  *portTable
	reaper *reaper

	// whole is held for writing by what concerns every container: Restore, Remove and Close.
	whole sync.RWMutex
	// host serialises the making and checking of the bridge device and the table.
	host       sync.Mutex
	configured bool // the device has been configured by this process; guarded by host

	mu     sync.Mutex // guards what follows
	pool   *ipam.Pool // nil until a subnet is known
	leases map[string]lease
	busy   map[string]chan struct{}
}

// Patterns of the names: what the kernel takes without quoting trouble in paths below /proc/sys and in `nft list`.
var (
	deviceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,14}$`)
	tableName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)
)

func (o Options) validate() error {
	switch {
	case !deviceName.MatchString(o.Name):
		return fmt.Errorf("bridge name %q: want 1 to 15 letters, digits, - or _, beginning with a letter", o.Name)
	case !tableName.MatchString(o.Table):
		return fmt.Errorf("table name %q: want letters, digits or _, beginning with a letter", o.Table)
	case !filepath.IsAbs(o.State):
		return fmt.Errorf("state directory %q of network %s: want an absolute path", o.State, o.Name)
	case o.MTU < 0 || o.MTU > 65535 || o.MTU > 0 && o.MTU < 68:
		return fmt.Errorf("MTU %d of network %s: want 68 to 65535", o.MTU, o.Name)
	case o.Subnet.IsValid():
		return validSubnet(o.Subnet)
	}
	return nil
}

// Open reads the state of a network. It changes nothing on the host: the device and the table are made by the
// first Attach. Leases of an earlier boot are dropped, since no container outlives the kernel. After a restart of
// the daemon, call Restore before the first Attach.
func Open(ctx context.Context, opts Options) (*Bridge, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	st, err := newStore(opts.State)
	if err != nil {
		return nil, err
	}
	log := slog.Default().With("network", opts.Name)
	b := &Bridge{
		opts:   opts,
		store:  st,
		log:    log,
		reaper: newReaper(log),
		rules:  newRuleset(opts.Table, opts.Name),
		ports:  newPortTable(),
		leases: map[string]lease{},
		busy:   map[string]chan struct{}{},
	}
	return b, b.load()
}

// load fills the pool and the leases from the state directory.
func (b *Bridge) load() error {
	subnet, err := b.store.subnet()
	if err != nil {
		return err
	}
	leases, err := b.store.leases(b.log)
	if err != nil {
		return err
	}
	if b.opts.Subnet.IsValid() && subnet != b.opts.Subnet.Masked() {
		if len(leases) > 0 && subnet.IsValid() {
			return fmt.Errorf("network %s has %d containers in %s: stop them before changing its subnet to %s",
				b.opts.Name, len(leases), subnet, b.opts.Subnet)
		}
		subnet = b.opts.Subnet.Masked()
	}
	if !subnet.IsValid() {
		return nil
	}
	if b.pool, err = ipam.New(ipam.Config{Subnet: subnet}); err != nil {
		return err
	}
	for _, l := range leases {
		if err := b.pool.Take(l.IP, l.ID); err != nil {
			b.log.Warn("dropping a lease that does not fit its network", "container", l.ID, "error", err)
			b.store.drop(l.ID)
			continue
		}
		b.leases[l.ID] = l
	}
	b.rules.seed(subnet, b.allElements())
	return nil
}

// allElements lists the published ports of all leases.
func (b *Bridge) allElements() []element {
	b.mu.Lock()
	defer b.mu.Unlock()
	var es []element
	for _, l := range b.leases {
		es = append(es, elementsOf(l)...)
	}
	return es
}

// Device is the name of the bridge device.
func (b *Bridge) Device() string { return b.opts.Name }

// Subnet returns the network's addresses; it is zero until the first Attach has chosen them.
func (b *Bridge) Subnet() netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pool == nil {
		return netip.Prefix{}
	}
	return b.pool.Subnet
}

// Gateway returns the host's address on the network; it is zero until Up or the first Attach.
func (b *Bridge) Gateway() netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pool == nil {
		return netip.Addr{}
	}
	return b.pool.Gateway
}

// Endpoint returns the endpoint of a container, and whether it has one.
func (b *Bridge) Endpoint(id string) (Endpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.leases[id]
	if !ok {
		return Endpoint{}, false
	}
	return b.endpoint(l), true
}

// endpoint is called with b.mu held.
func (b *Bridge) endpoint(l lease) Endpoint {
	return Endpoint{
		ID: l.ID, IP: l.IP, PrefixLen: b.pool.Subnet.Bits(), Gateway: b.pool.Gateway,
		MAC: macOf(l.IP), Ports: l.Ports, Sandbox: sandboxPath(l.PID),
	}
}

// Close waits for what Detach left to the background, and gives up the sockets that hold the published ports and the
// connection to nftables. Containers stay connected.
func (b *Bridge) Close() error {
	b.whole.Lock()
	defer b.whole.Unlock()
	b.reaper.awaitAll()
	b.ports.releaseAll()
	b.rules.close()
	return nil
}

// begin waits until no operation on id runs and marks one as running until the returned function is called.
func (b *Bridge) begin(ctx context.Context, id string) (end func(), err error) {
	for {
		b.mu.Lock()
		running, busy := b.busy[id]
		if !busy {
			done := make(chan struct{})
			b.busy[id] = done
			b.mu.Unlock()
			return func() {
				b.mu.Lock()
				delete(b.busy, id)
				b.mu.Unlock()
				close(done)
			}, nil
		}
		b.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
