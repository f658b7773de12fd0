package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/fault"
)

// An overlay network is a bridge with a VXLAN device (RFC 7348) that reaches the bridges of the same network on other machines.
// Nothing is learned or flooded: SetPeers says where each address is, and the device itself answers who has it.

// Overlay says how a network reaches the other nodes of a cluster.
type Overlay struct {
	Number uint32       // of the VXLAN, below 2^24
	Local  netip.Addr   // this machine's address, from which it sends
	Port   uint16       // UDP, the same on all nodes
	Node   []netip.Addr // this node's own addresses on the network, at most one of a family, which no other node has
}

// vxlanOverhead is what VXLAN over Ethernet adds to a frame, with an outer header of each family.
const vxlanOverhead4, vxlanOverhead6 = 50, 70

// leastMTU6 is the smallest MTU of a link that IPv6 takes (RFC 8200, 5).
const leastMTU6 = 1280

// Peer is an address on another node.
type Peer struct {
	Addr netip.Addr
	At   netip.Addr // the node's address, where its VXLAN device listens
	As   netip.Addr // the first address of the same endpoint, of which its MAC address is made; zero: Addr
}

// remote is where an address is, and by which MAC address it is found.
type remote struct {
	at  netip.Addr
	mac string // as bytes
}

func (p Peer) remote() remote {
	if p.As.IsValid() {
		return remote{p.At, string(macOf(p.As))}
	}
	return remote{p.At, string(macOf(p.Addr))}
}

// bridged says whether a network is a bridge of its own.
func (c *Config) bridged() bool { return c.Driver == DriverBridge || c.Driver == DriverOverlay }

// vxlanName names the VXLAN device of a network.
func vxlanName(id string) string { return fmt.Sprintf("gx-%.12s", id) }

// fitOverlay checks an overlay, and gives it the MTU that the network below leaves.
func (c *Config) fitOverlay() error {
	o := c.Overlay
	if o == nil || !o.Local.IsValid() || len(o.Node) == 0 || o.Number == 0 || o.Number >= 1<<24 || o.Port == 0 {
		return fault.Invalid("network %s: an overlay network is made by a cluster", c.Name)
	}
	used, err := hostNetworks("")
	if err != nil {
		return err
	}
	for _, i := range c.IPAM {
		for _, u := range significant(used) {
			if u.Overlaps(i.Subnet) {
				return fault.Forbidden("subnet %s of network %s overlaps %s, which this machine has a route to: make the network with "+
					"another --subnet, or the cluster with another --default-addr-pool", i.Subnet, c.Name, u)
			}
		}
	}
	below, overhead := mtuOf(o.Local), vxlanOverhead4
	if o.Local.Is6() {
		overhead = vxlanOverhead6
	}
	most := below - overhead
	if c.MTU == 0 {
		c.MTU = most
	}
	switch {
	case c.MTU > most:
		return fault.Invalid("network %s: MTU %d is more than %d, which the network below leaves: its MTU is %d",
			c.Name, c.MTU, most, below)
	case c.IPv6 && c.MTU < leastMTU6:
		return fault.Invalid("network %s: IPv6 wants an MTU of %d, and the network below leaves %d of its %d",
			c.Name, leastMTU6, c.MTU, below)
	}
	return nil
}

// HasRoomFor6 says whether an overlay network over an address of this machine can speak IPv6.
func HasRoomFor6(local netip.Addr) bool {
	overhead := vxlanOverhead4
	if local.Is6() {
		overhead = vxlanOverhead6
	}
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil && mtuOf(local)-overhead >= leastMTU6
}

// mtuOf is the MTU of the device that has an address.
func mtuOf(a netip.Addr) int {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return hostMTU()
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			continue
		}
		for _, have := range addrs {
			if ip, ok := netip.AddrFromSlice(have.IP); ok && ip.Unmap() == a {
				return l.Attrs().MTU
			}
		}
	}
	return hostMTU()
}

// ensureVXLAN makes the device that leads to other nodes, when it is not there as it should be.
func (n *Network) ensureVXLAN(bridge int) error {
	o, name := n.cfg.Overlay, vxlanName(n.cfg.ID)
	link, err := netlink.LinkByName(name)
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("looking for device %s: %w", name, err)
	}
	if err == nil {
		v, ok := link.(*netlink.Vxlan)
		if !ok || v.Alias != "" && v.Alias != n.alias() {
			return fmt.Errorf("device %s: %w", name, errForeignDevice)
		}
		if v.VxlanId == int(o.Number) && v.Port == int(o.Port) && v.SrcAddr.Equal(o.Local.AsSlice()) && v.MasterIndex == bridge &&
			v.MTU == n.cfg.MTU && v.Flags&net.FlagUp != 0 {
			n.vxlan = v.Index
			return nil
		}
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("making device %s anew: %w", name, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, n.cfg.MTU
	v := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: int(o.Number), SrcAddr: o.Local.AsSlice(), Port: int(o.Port), Learning: false, Proxy: true,
	}
	if err := netlink.LinkAdd(v); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("VXLAN %d is used on this machine: by another cluster? give one of them another --data-path-port", o.Number)
		}
		return fmt.Errorf("making device %s: %w", name, needs("vxlan", err))
	}
	err = errors.Join(netlink.LinkSetAlias(v, n.alias()), netlink.LinkSetMasterByIndex(v, bridge), netlink.LinkSetUp(v))
	if err != nil {
		return errors.Join(fmt.Errorf("setting up device %s: %w", name, err), netlink.LinkDel(v))
	}
	n.vxlan, n.peers = v.Index, nil
	return nil
}

// SetPeers says which addresses are on other nodes, in place of those that it has said before. It does nothing as long as the
// network's device is not there.
func (n *Network) SetPeers(peers []Peer) error {
	want := map[netip.Addr]remote{}
	for _, p := range peers {
		want[p.Addr] = p.remote()
	}
	return n.setPeers(want)
}

func (n *Network) setPeers(want map[netip.Addr]remote) error {
	n.host.whole.RLock()
	defer n.host.whole.RUnlock()
	n.host.devices.Lock()
	defer n.host.devices.Unlock()
	if n.vxlan == 0 {
		return nil
	}
	br, err := n.existingBridge()
	if err != nil {
		return err
	}
	macs := map[string]bool{}
	for _, to := range want {
		macs[to.mac] = true
	}
	if n.peers == nil {
		if n.peers, err = n.programmed(); err != nil {
			return err
		}
	}
	var errs []error
	for addr, to := range n.peers {
		if want[addr] != to {
			errs = append(errs, n.way(br.Index, addr, to, !macs[to.mac], netlink.NeighDel))
			delete(n.peers, addr)
		}
	}
	for addr, to := range want {
		if n.peers[addr] == to {
			continue
		}
		if err := n.way(br.Index, addr, to, true, netlink.NeighSet); err != nil {
			errs = append(errs, err)
			continue
		}
		n.peers[addr] = to
	}
	if err := errors.Join(errs...); err != nil {
		n.peers = nil // look again
		return fmt.Errorf("the ways of network %s to other nodes: %w", n.cfg.Name, err)
	}
	return nil
}

// Repair compares what the kernel has of an overlay network with what it should have, puts it right, and says how much was wrong: its
// devices count as one, each way to another node, and the mesh, too.
func (n *Network) Repair(ctx context.Context) (repaired int, err error) {
	n.host.devices.Lock()
	before, known := n.vxlan, maps.Clone(n.peers)
	n.host.devices.Unlock()
	if before == 0 {
		return 0, nil // it is not made yet
	}
	n.host.whole.RLock()
	_, err = n.ensure(ctx)
	n.host.whole.RUnlock()
	if err != nil {
		return 0, err
	}
	n.host.devices.Lock()
	if n.vxlan != before {
		repaired++
	}
	have, err := n.programmed()
	n.peers = have
	n.host.devices.Unlock()
	if err != nil || known == nil {
		return repaired, err
	}
	for addr, to := range known {
		if have[addr] != to {
			repaired++
		}
	}
	for addr := range have {
		if _, ok := known[addr]; !ok {
			repaired++
		}
	}
	return repaired, n.setPeers(known)
}

// way sets or deletes what leads to an address on another node: the VXLAN device answers who has it, and the host itself need not
// ask. With the frames, for which addresses of one endpoint have one MAC address, the device sends them there, and the bridge passes
// them to it.
func (n *Network) way(bridge int, addr netip.Addr, to remote, frames bool, change func(*netlink.Neigh) error) error {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	all := []netlink.Neigh{
		{LinkIndex: n.vxlan, Family: family, State: netlink.NUD_PERMANENT, IP: addr.AsSlice()},
		{LinkIndex: bridge, Family: family, State: netlink.NUD_PERMANENT, IP: addr.AsSlice()},
	}
	if frames {
		all = append(all, netlink.Neigh{
			LinkIndex: n.vxlan, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, IP: to.at.AsSlice(),
		}, netlink.Neigh{LinkIndex: n.vxlan, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP})
	}
	for _, e := range all {
		e.HardwareAddr = net.HardwareAddr(to.mac)
		if err := change(&e); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s at %s: %w", addr, to.at, err)
		}
	}
	return nil
}

// programmed is what the VXLAN device has of an earlier process, or of this one after a mistake.
func (n *Network) programmed() (map[netip.Addr]remote, error) {
	at := map[string]netip.Addr{} // by MAC address
	fdb, err := netlink.NeighList(n.vxlan, unix.AF_BRIDGE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	for _, e := range fdb {
		if ip, ok := netip.AddrFromSlice(e.IP); ok && e.Flags&netlink.NTF_SELF != 0 {
			at[string(e.HardwareAddr)] = ip.Unmap()
		}
	}
	all := map[netip.Addr]remote{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		known, err := netlink.NeighList(n.vxlan, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
		for _, e := range known {
			if ip, ok := netip.AddrFromSlice(e.IP); ok && e.State&netlink.NUD_PERMANENT != 0 {
				all[ip.Unmap()] = remote{at[string(e.HardwareAddr)], string(e.HardwareAddr)}
			}
		}
	}
	return all, nil
}

// ownAddresses are this node's on an overlay network.
func (n *Network) ownAddresses() (all []netip.Prefix) {
	if n.cfg.Overlay == nil {
		return nil
	}
	for _, a := range n.cfg.Overlay.Node {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return slices.Clip(all)
}
