package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// errForeignDevice guards devices that others made: they are never adopted, changed or deleted.
var errForeignDevice = errors.New("a device of that name exists and was not made for this network; remove it or configure another name")

// device is a network's device on the host.
type device struct {
	name  string
	index int
	mtu   int
}

// alias marks a device as this network's; `ip link` shows it.
func (n *Network) alias() string {
	if n.cfg.ID == DefaultID {
		return n.host.mark()
	}
	return n.host.mark() + ", " + n.cfg.ID
}

// bridge returns the bridge, nil when there is none.
func (n *Network) bridge() (*netlink.Bridge, error) {
	link, err := netlink.LinkByName(n.cfg.Device)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for bridge %s: %w", n.cfg.Device, needs("rtnetlink", err))
	}
	br, ok := link.(*netlink.Bridge)
	if !ok || !n.made(br) {
		return nil, fmt.Errorf("bridge %s: %w", n.cfg.Device, errForeignDevice)
	}
	return br, nil
}

// made says whether this network made a bridge. The kernel takes the alias only in a second request, so a bridge
// without one is also ours if it has our MAC address: the process was killed in between.
func (n *Network) made(br *netlink.Bridge) bool {
	a := br.Attrs()
	mac := n.bridgeMAC()
	return a.Alias == n.alias() || a.Alias == "" && mac != nil && slices.Equal(a.HardwareAddr, mac)
}

// bridgeMAC is nil as long as no subnet is known.
func (n *Network) bridgeMAC() net.HardwareAddr {
	if o := n.cfg.Overlay; o != nil {
		return macOf(o.Node[0]) // the gateway is on all nodes
	}
	for _, is4 := range []bool{true, false} {
		if p, ok := n.poolOf(is4); ok {
			return macOf(p.Gateway)
		}
	}
	return nil
}

func isNotFound(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV)
}

// ensure makes what is missing of the device and the table, and returns the device. When all is there it costs some
// netlink requests, which is what makes it worth asking at every attach: a reloaded firewall may have flushed the
// table.
func (n *Network) ensure(ctx context.Context) (device, error) {
	n.host.devices.Lock()
	defer n.host.devices.Unlock()
	if !n.cfg.bridged() {
		return n.ensureParent()
	}
	br, err := n.bridge()
	if err != nil {
		return device{}, err
	}
	if br == nil || !n.configured || br.Attrs().Flags&net.FlagUp == 0 {
		if br, err = n.setUp(ctx, br); err != nil {
			return device{}, err
		}
	}
	if n.cfg.Overlay != nil {
		if err := n.ensureVXLAN(br.Attrs().Index); err != nil {
			return device{}, err
		}
	}
	if err := n.host.rules.ensure(n.policy()); err != nil {
		return device{}, err
	}
	n.host.openWay() // each time: another engine may have come meanwhile, which drops what it does not know
	n.configured = true
	return device{br.Attrs().Name, br.Attrs().Index, br.Attrs().MTU}, nil
}

// policy is what the table is to do for this network.
func (n *Network) policy() policy {
	p := policy{
		device: n.cfg.Device, subnets: n.subnets(), internal: n.cfg.Internal, talk: n.cfg.ICC, open: n.cfg.Open,
	}
	if n.cfg.Masquerade && !n.cfg.Internal {
		p.masquerade, p.as = p.subnets, n.cfg.Source
	}
	return p
}

// Up makes the bridge and the table when they are missing, as the first Attach would, and returns the host's IPv4
// address on the network.
func (n *Network) Up(ctx context.Context) (netip.Addr, error) {
	n.host.whole.RLock()
	defer n.host.whole.RUnlock()
	if _, err := n.ensure(ctx); err != nil {
		return netip.Addr{}, fmt.Errorf("network %s: %w", n.cfg.Name, err)
	}
	return n.Gateway(), nil
}

// setUp makes the bridge when there is none, and configures it.
func (n *Network) setUp(ctx context.Context, br *netlink.Bridge) (*netlink.Bridge, error) {
	unlock, err := lockNamespace(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := n.settleSubnet(); err != nil {
		return nil, err
	}
	if br == nil {
		if br, err = n.createBridge(); err != nil {
			return nil, err
		}
	}
	if err := n.configure(br); err != nil {
		return nil, err
	}
	return n.existingBridge()
}

// existingBridge is bridge where there must be one.
func (n *Network) existingBridge() (*netlink.Bridge, error) {
	br, err := n.bridge()
	if err == nil && br == nil {
		err = fmt.Errorf("bridge %s: deleted by another program while it was being set up; try again", n.cfg.Device)
	}
	return br, err
}

// settleSubnet chooses the default network's subnet when none is known, or when the one chosen earlier has since been
// taken by the host and no container uses it.
func (n *Network) settleSubnet() error {
	used, err := hostNetworks(n.cfg.Device)
	if err != nil {
		return err
	}
	for _, other := range n.host.all() {
		if other != n {
			used = append(used, other.subnets()...)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	taken, inUse := false, 0
	for _, p := range n.pools {
		inUse += p.InUse()
		if overlaps(p.Subnet, used) {
			taken = true
			n.log.Warn("the network's subnet overlaps a route of the host", "subnet", p.Subnet)
		}
	}
	if len(n.cfg.IPAM) > 0 {
		return nil // it is as its owner wants it
	}
	if len(n.pools) == 0 || taken && inUse == 0 {
		subnet, err := ipam.Choose(n.host.pools(true), significant(used))
		if err != nil {
			return err
		}
		if n.pools, err = poolsOf([]ipam.Config{{Subnet: subnet}}); err != nil {
			return err
		}
	}
	if err := n.store.saveSubnet(n.pools[0].Subnet); err != nil {
		return fmt.Errorf("keeping the network's subnet: %w", err)
	}
	return nil
}

func (n *Network) createBridge() (*netlink.Bridge, error) {
	mtu := n.cfg.MTU
	if mtu == 0 {
		mtu = hostMTU()
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.cfg.Device, mtu
	attrs.HardwareAddr = n.bridgeMAC() // else it changes with the ports, and containers lose their gateway for a while
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("making bridge %s: %w", n.cfg.Device, needs("bridge", err))
	}
	return n.existingBridge()
}

// configure gives the bridge its addresses and the kernel settings it needs.
func (n *Network) configure(br *netlink.Bridge) error {
	if err := setSysctls(n.cfg, n.log); err != nil {
		return err
	}
	if err := setAddresses(br, n.gateways()); err != nil {
		return fmt.Errorf("giving bridge %s the addresses %v: %w", n.cfg.Device, n.gateways(), needs("ipv6", err))
	}
	if err := netlink.LinkSetAlias(br, n.alias()); err != nil {
		return fmt.Errorf("marking bridge %s as ours: %w", n.cfg.Device, err)
	}
	if n.cfg.MTU != 0 && br.Attrs().MTU != n.cfg.MTU {
		if err := netlink.LinkSetMTU(br, n.cfg.MTU); err != nil {
			return fmt.Errorf("giving bridge %s the MTU %d: %w", n.cfg.Device, n.cfg.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return fmt.Errorf("starting bridge %s: %w", n.cfg.Device, err)
	}
	return nil
}

// gateways are the host's addresses on the network.
func (n *Network) gateways() (all []netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cfg.Isolated {
		return nil
	}
	for _, p := range n.pools {
		all = append(all, netip.PrefixFrom(p.Gateway, p.Subnet.Bits()))
	}
	return append(all, n.ownAddresses()...)
}

// setAddresses leaves the device with exactly these addresses, and those that the kernel gives it.
func setAddresses(link netlink.Link, want []netip.Prefix) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range have {
		p, ok := prefixOf(a.IPNet)
		if ok && slices.Contains(want, p) || a.IP.IsLinkLocalUnicast() && a.IP.To4() == nil {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return err
		}
	}
	for _, p := range want {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// lockNamespace keeps networks of other processes in the same network namespace from choosing a subnet at the same
// moment. The lock is on the namespace itself, needs no file anywhere, and ends with the process.
func lockNamespace(ctx context.Context) (unlock func(), err error) {
	unlock, err = state.LockContext(ctx, "/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("waiting for other processes to set up their networks: %w", err)
	}
	return unlock, nil
}

// restore makes the device again if containers are on it, and deletes interfaces that no lease knows.
func (n *Network) restore(ctx context.Context) error {
	if !n.cfg.bridged() {
		return nil
	}
	br, err := n.bridge()
	if err != nil {
		return err
	}
	if br == nil && len(n.snapshot()) == 0 {
		return nil // nothing on the host yet: it stays so until the first Attach
	}
	n.host.devices.Lock()
	n.configured = false
	n.host.devices.Unlock()
	dev, err := n.ensure(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, l := range n.snapshot() {
		wanted[vethName(n.cfg.Device, l)] = true
	}
	stray, err := strayVeths(dev.index, wanted)
	if err != nil {
		return err
	}
	return deleteLinks(stray)
}

// removeDevices deletes what the network has on the host.
func (n *Network) removeDevices() error {
	if !n.cfg.bridged() {
		return n.removeParent()
	}
	br, err := n.bridge()
	if err != nil || br == nil {
		return err
	}
	ports, err := strayVeths(br.Attrs().Index, nil)
	if err != nil {
		return err
	}
	if n.cfg.Overlay != nil {
		ports = append(ports, vxlanName(n.cfg.ID))
		n.vxlan, n.peers = 0, nil
	}
	return errors.Join(deleteLinks(ports), deleteLink(n.cfg.Device))
}
