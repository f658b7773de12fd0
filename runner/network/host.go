// Package network gives containers their networks: bridges of the host with veth pairs, and networks that lie on one of
// the host's own devices (macvlan, ipvlan), with one nftables table for all of them: address translation for what
// leaves a network and for published ports, and what keeps networks apart.
//
// It programs the kernel directly through netlink and nftables, runs no external program, and touches only devices and
// tables that it made, so that it lives beside other engines and beside a host firewall. A container's network
// namespace is made by the runtime; Attach puts an interface into it, which dies with the namespace, so a crash leaves
// nothing behind on the container's side.
//
// Words: the Host is all networks of one data root; an Endpoint is a container's place on a network; a lease is an
// endpoint written to the state directory; a published port is a port of the host that leads to a port of a container.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Options say how the networks of one data root are on this machine. Two data roots need different Names, Tables and
// States.
type Options struct {
	Name   string       // of the default network's bridge device, at most 15 characters
	Table  string       // name of the nftables table (family inet)
	Subnet netip.Prefix // addresses of the default network; zero: a free one is chosen once and kept in State
	State  string       // directory of the leases, made when missing
	MTU    int          // zero: the MTU of the device of the host's default route
	Pools  []ipam.Range // from which networks get subnets that nobody asked for; nil: ipam's own

	// Namespace makes the network namespace of a sandbox, one that emulated programs own; its caller
	// closes it. Where it is nil or fails, sandboxes belong to the host's user namespace.
	Namespace func() (*os.File, error)
}

// DefaultID names the network on which containers are that ask for none.
const DefaultID = "default"

// Host is the networks of one data root. All methods may be called from many goroutines.
type Host struct {
	opts   Options
	log    *slog.Logger
	rules  *ruleset
	ports  *portTable
	reaper *reaper

	// whole is held for writing by what concerns every container: Restore, Remove and Close.
	whole sync.RWMutex
	// devices serialises the making and checking of devices and of the table.
	devices sync.Mutex

	mu       sync.Mutex // guards what follows
	networks map[string]*Network
}

// Patterns of the names: what the kernel takes without quoting trouble in paths below /proc/sys and in `nft list`.
var (
	deviceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`)
	tableName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)
)

func (o Options) validate() error {
	switch {
	case !deviceName.MatchString(o.Name):
		return fmt.Errorf("bridge name %q: want 1 to 15 letters, digits, . - or _, beginning with a letter", o.Name)
	case !tableName.MatchString(o.Table):
		return fmt.Errorf("table name %q: want letters, digits or _, beginning with a letter", o.Table)
	case !filepath.IsAbs(o.State):
		return fmt.Errorf("state directory %q of network %s: want an absolute path", o.State, o.Name)
	case !validMTU(o.MTU):
		return fmt.Errorf("MTU %d of network %s: want 68 to 65535", o.MTU, o.Name)
	case o.Subnet.IsValid():
		return validSubnet(o.Subnet)
	}
	return ipam.CheckRanges(o.Pools)
}

func validMTU(mtu int) bool { return mtu == 0 || 68 <= mtu && mtu <= 65535 }

// Open reads the state of the default network. It changes nothing on the host: devices and the table are made by the
// first Attach. Leases of an earlier boot are dropped, since no container outlives the kernel. After a restart of the
// daemon, call Add for each other network, and then Restore, before the first Attach.
func Open(ctx context.Context, opts Options) (*Host, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	log := slog.Default()
	h := &Host{
		opts: opts, log: log, reaper: newReaper(log), rules: newRuleset(opts.Table), ports: newPortTable(),
		networks: map[string]*Network{},
	}
	c := Config{ID: DefaultID, Name: "bridge", Driver: DriverBridge, Device: opts.Name, IPv4: true,
		MTU: opts.MTU, ICC: true, Masquerade: true}
	if opts.Subnet.IsValid() {
		c.IPAM = []ipam.Config{{Subnet: opts.Subnet.Masked()}}
	}
	_, err := h.add(c, opts.State)
	return h, err
}

// Default returns the network on which containers are that ask for none.
func (h *Host) Default() *Network {
	n, _ := h.Network(DefaultID)
	return n
}

// Network finds a network by its ID.
func (h *Host) Network(id string) (*Network, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, ok := h.networks[id]
	return n, ok
}

func (h *Host) all() []*Network {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.networks))
}

// Add takes up a network that Create has made for an earlier daemon.
func (h *Host) Add(c Config) error {
	_, err := h.add(c, filepath.Join(h.opts.State, c.ID))
	return err
}

func (h *Host) add(c Config, dir string) (*Network, error) {
	n, err := open(h, c, dir)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks[c.ID] = n
	return n, nil
}

// Create makes a network and returns its configuration with what was chosen: subnets, gateways, device. Its device is
// made at once, so that what the kernel refuses is known. Errors: errdefs.ErrInvalidArgument for a configuration that
// can't be, ErrPermissionDenied for one that is another network's, ErrUnavailable without a free subnet.
func (h *Host) Create(ctx context.Context, c Config) (Config, error) {
	h.whole.RLock()
	defer h.whole.RUnlock()
	c, err := h.settle(ctx, c)
	if err != nil {
		return c, err
	}
	n, ok := h.Network(c.ID)
	if !ok {
		return c, fault.Invalid("network %s is gone", c.Name)
	}
	if _, err := n.ensure(ctx); err != nil {
		return c, errors.Join(err, n.remove())
	}
	return c, nil
}

// settle checks a configuration, chooses what it leaves open, and enters the network: two that are made at once see
// each other.
func (h *Host) settle(ctx context.Context, c Config) (Config, error) {
	if err := c.check(); err != nil {
		return c, err
	}
	h.devices.Lock()
	defer h.devices.Unlock()
	unlock, err := lockNamespace(ctx)
	if err != nil {
		return c, err
	}
	defer unlock()
	c.IPAM = slices.Clone(c.IPAM)
	slices.SortStableFunc(c.IPAM, func(a, b ipam.Config) int { // IPv4 first
		return cmp.Compare(a.Subnet.Addr().BitLen(), b.Subnet.Addr().BitLen())
	})
	others := h.subnets()
	for _, i := range c.IPAM {
		if j := slices.IndexFunc(others, func(p netip.Prefix) bool { return p.Overlaps(i.Subnet) }); j >= 0 {
			return c, fault.Forbidden("invalid pool request: Pool overlaps with other one on this address space")
		}
		others = append(others, i.Subnet)
	}
	if c.Driver == DriverOverlay {
		err = c.fitOverlay()
	} else {
		err = h.chooseFor(&c, others)
	}
	if err != nil {
		return c, err
	}
	switch {
	case !c.bridged() && c.Parent != "":
		c.Device = c.Parent
	case c.Device == "":
		c.Device = deviceOf(c.ID)
	}
	for _, n := range h.all() {
		if c.bridged() && n.cfg.bridged() && n.cfg.Device == c.Device {
			return c, fault.Forbidden("cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name",
				c.ID, c.Device, n.cfg.ID, n.cfg.Device)
		}
	}
	_, err = h.add(c, filepath.Join(h.opts.State, c.ID))
	return c, err
}

// chooseFor gives a network the subnets that nobody chose, one of each family that it speaks.
func (h *Host) chooseFor(c *Config, others []netip.Prefix) error {
	used, err := hostNetworks("")
	if err != nil {
		return err
	}
	used = append(used, others...)
	for _, want := range []struct {
		on   bool
		is4  bool
		pool []ipam.Range
	}{{c.IPv4, true, h.opts.Pools}, {c.IPv6, false, h.opts.Pools}} {
		if !want.on || slices.ContainsFunc(c.IPAM, func(i ipam.Config) bool { return i.Subnet.Addr().Is4() == want.is4 }) {
			continue
		}
		subnet, err := ipam.Choose(h.pools(want.is4), significant(used))
		if err != nil {
			return err
		}
		c.IPAM = append(c.IPAM, ipam.Config{Subnet: subnet})
	}
	return nil
}

// pools are the blocks of one family.
func (h *Host) pools(is4 bool) []ipam.Range {
	own := slices.DeleteFunc(slices.Clone(h.opts.Pools), func(r ipam.Range) bool { return r.Base.Addr().Is4() != is4 })
	switch {
	case len(own) > 0:
		return own
	case is4:
		return ipam.Defaults
	}
	return []ipam.Range{ipam.UniqueLocal(h.opts.State)}
}

// subnets are those of all networks.
func (h *Host) subnets() (all []netip.Prefix) {
	for _, n := range h.all() {
		all = append(all, n.subnets()...)
	}
	return all
}

// Remove takes a network off the host and forgets it. It is no error when there is none of that ID.
func (h *Host) Remove(ctx context.Context, id string) error {
	h.whole.Lock()
	defer h.whole.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	n, ok := h.Network(id)
	if !ok {
		return nil
	}
	return n.remove()
}

// Clear takes all networks' devices and the table off the host; what networks there are, and which addresses they
// have, stays known. It leaves IPv4 forwarding as it is, on which others may rely by now. Calling it again is no error.
func (h *Host) Clear(ctx context.Context) error {
	h.whole.Lock()
	defer h.whole.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	var errs []error
	for _, n := range h.all() {
		errs = append(errs, n.clear())
	}
	return errors.Join(errs...)
}

// Close waits for what Detach left to the background, and gives up the sockets that hold the published ports and the
// connection to nftables. Containers stay connected.
func (h *Host) Close() error {
	h.whole.Lock()
	defer h.whole.Unlock()
	h.reaper.awaitAll()
	h.ports.releaseAll()
	h.rules.close()
	return nil
}

// Restore brings the host and the state in line with the containers that really run, by the ID of their networks, after
// the daemon has restarted or after a firewall was reloaded: those keep their addresses and ports; the leases, rules
// and interfaces of all others go, but for the sandboxes of this process. The table is written anew. It may be called at
// any time and any number of times; Attach and Detach wait for it.
func (h *Host) Restore(ctx context.Context, running map[string][]string) error {
	h.whole.Lock()
	defer h.whole.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	h.reaper.awaitAll()
	h.ports.releaseAll()
	var elements []element
	var policies []policy
	for _, n := range h.all() {
		n.keepOnly(running[n.cfg.ID])
		n.bindPorts()
		elements = append(elements, n.elements()...)
		if n.cfg.bridged() && len(n.snapshot()) > 0 {
			policies = append(policies, n.policy())
		}
	}
	h.rules.seed(policies, elements)
	if err := h.sweep(); err != nil {
		return err
	}
	for _, n := range h.all() {
		if err := n.restore(ctx); err != nil {
			return fmt.Errorf("restoring network %s: %w", n.cfg.Name, err)
		}
	}
	return nil
}
