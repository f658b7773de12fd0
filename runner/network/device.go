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

// alias marks the bridge as ours; `ip link` shows it.
func (b *Bridge) alias() string { return "gantry network, table " + b.opts.Table }

// bridgeDevice returns the bridge, nil when there is none.
func (b *Bridge) bridgeDevice() (*netlink.Bridge, error) {
	link, err := netlink.LinkByName(b.opts.Name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for bridge %s: %w", b.opts.Name, needs("rtnetlink", err))
	}
	br, ok := link.(*netlink.Bridge)
	if !ok || !b.made(br) {
		return nil, fmt.Errorf("bridge %s: %w", b.opts.Name, errForeignDevice)
	}
	return br, nil
}

// made says whether this network made a bridge. The kernel takes the alias only in a second request, so a bridge
// without one is also ours if it has our gateway's MAC address: the process was killed in between.
func (b *Bridge) made(br *netlink.Bridge) bool {
	a := br.Attrs()
	gateway := b.Gateway()
	return a.Alias == b.alias() || a.Alias == "" && gateway.IsValid() && slices.Equal(a.HardwareAddr, macOf(gateway))
}

func isNotFound(err error) bool {
	return errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV)
}

// ensure makes what is missing of the bridge device and the table, and returns the bridge. When all is there it
// costs two netlink requests, which is what makes it worth asking at every attach: a reloaded firewall may have
// flushed the table.
func (b *Bridge) ensure(ctx context.Context) (*netlink.Bridge, error) {
	b.host.Lock()
	defer b.host.Unlock()
	br, err := b.bridgeDevice()
	if err != nil {
		return nil, err
	}
	if br == nil || !b.configured || br.Attrs().Flags&net.FlagUp == 0 {
		if br, err = b.setUp(ctx, br); err != nil {
			return nil, err
		}
	}
	wrote, err := b.rules.ensure(b.Subnet())
	if err != nil {
		return nil, err
	}
	if wrote {
		b.warnOfDroppers()
	}
	b.configured = true
	return br, nil
}

// Up makes the bridge and the table when they are missing, as the first Attach would, and returns the host's
// address on the network.
func (b *Bridge) Up(ctx context.Context) (netip.Addr, error) {
	b.whole.RLock()
	defer b.whole.RUnlock()
	if _, err := b.ensure(ctx); err != nil {
		return netip.Addr{}, fmt.Errorf("network %s: %w", b.opts.Name, err)
	}
	return b.Gateway(), nil
}

// setUp makes the bridge when there is none, and configures it.
func (b *Bridge) setUp(ctx context.Context, br *netlink.Bridge) (*netlink.Bridge, error) {
	unlock, err := lockNamespace(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := b.settleSubnet(); err != nil {
		return nil, err
	}
	if br == nil {
		if br, err = b.createBridge(); err != nil {
			return nil, err
		}
	}
	if err := b.configure(br); err != nil {
		return nil, err
	}
	return b.existingBridge()
}

// existingBridge is bridgeDevice where there must be one.
func (b *Bridge) existingBridge() (*netlink.Bridge, error) {
	br, err := b.bridgeDevice()
	if err == nil && br == nil {
		err = fmt.Errorf("bridge %s: deleted by another program while it was being set up; try again", b.opts.Name)
	}
	return br, err
}

// settleSubnet chooses the subnet when none is known, or when the one chosen earlier has since been taken by the
// host and no container uses it.
func (b *Bridge) settleSubnet() error {
	used, err := hostNetworks(b.opts.Name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.pool != nil && overlaps(b.pool.Subnet, used)
	fixed := b.pool != nil && (b.opts.Subnet.IsValid() || b.pool.InUse() > 0)
	if taken && fixed {
		b.log.Warn("the network's subnet overlaps a route of the host", "subnet", b.pool.Subnet)
	}
	if b.pool == nil || taken && !fixed {
		subnet, err := chooseSubnet(used)
		if err != nil {
			return err
		}
		if b.pool, err = ipam.New(ipam.Config{Subnet: subnet}); err != nil {
			return err
		}
	}
	if err := b.store.saveSubnet(b.pool.Subnet); err != nil {
		return fmt.Errorf("keeping the network's subnet: %w", err)
	}
	return nil
}

func (b *Bridge) createBridge() (*netlink.Bridge, error) {
	mtu := b.opts.MTU
	if mtu == 0 {
		mtu = hostMTU()
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.opts.Name, mtu
	attrs.HardwareAddr = macOf(b.Gateway()) // else it changes with the ports, and containers lose their gateway for a while
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("making bridge %s: %w", b.opts.Name, needs("bridge", err))
	}
	return b.existingBridge()
}

// configure gives the bridge its one address and the kernel settings it needs.
func (b *Bridge) configure(br *netlink.Bridge) error {
	want := netip.PrefixFrom(b.Gateway(), b.Subnet().Bits())
	if err := setAddress(br, want); err != nil {
		return fmt.Errorf("giving bridge %s the address %s: %w", b.opts.Name, want, err)
	}
	if err := netlink.LinkSetAlias(br, b.alias()); err != nil {
		return fmt.Errorf("marking bridge %s as ours: %w", b.opts.Name, err)
	}
	if b.opts.MTU != 0 && br.Attrs().MTU != b.opts.MTU {
		if err := netlink.LinkSetMTU(br, b.opts.MTU); err != nil {
			return fmt.Errorf("giving bridge %s the MTU %d: %w", b.opts.Name, b.opts.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return fmt.Errorf("starting bridge %s: %w", b.opts.Name, err)
	}
	return setSysctls(b.opts.Name, b.log)
}

// setAddress leaves the device with exactly one IPv4 address.
func setAddress(link netlink.Link, want netip.Prefix) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if p, ok := prefixOf(a.IPNet); ok && p == want {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return err
		}
	}
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(want)})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
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
