package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vethPrefix begins the host side's name of every container's veth pair.
const vethPrefix = "gve"

// vethName names the host side. It follows from the network and the lease, so that it is found again after a restart,
// and a container may later join several networks. The nonce is part of it so that a container that is attached again
// need not wait until its earlier pair is deleted.
func vethName(bridge string, l lease) string {
	name := bridge + "/" + l.ID
	for _, a := range l.addresses() {
		name += "/" + a.String()
	}
	name += l.Nonce
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s%x", vethPrefix, sum[:6])
}

// macOf derives a locally administered MAC address from an IP address. An address thus always has the same MAC,
// and no neighbour table goes stale when it passes to another container.
func macOf(ip netip.Addr) net.HardwareAddr {
	a := ip.AsSlice()
	return append(net.HardwareAddr{0x02, 0x42}, a[len(a)-4:]...)
}

func sandboxPath(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// openSandbox opens a process's network namespace, and refuses that of the daemon itself.
func openSandbox(pid int) (*os.File, error) {
	f, err := os.Open(sandboxPath(pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace of process %d: %w", pid, err)
	}
	theirs, err := f.Stat()
	if err == nil {
		var ours os.FileInfo
		if ours, err = os.Stat("/proc/thread-self/ns/net"); err == nil && os.SameFile(ours, theirs) {
			err = fmt.Errorf("process %d shares the host's network namespace", pid)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// wire is what connects one sandbox.
type wire struct {
	dev      device
	host     string // name of the host side of a veth pair; empty for an interface on a device of the host
	isolated bool   // the bridge passes nothing to other containers
	name     string // in the container
	mac      net.HardwareAddr
	addrs    []netip.Prefix // the container's addresses with their subnets' lengths
	gateways []netip.Addr
	ipv6     bool
	sysctls  []string
	make     func(w wire, inside *interior) error // makes the interface in the container, under its name
}

// wire says how to connect a lease.
func (n *Network) wire(dev device, l lease) wire {
	w := wire{dev: dev, name: l.Interface, mac: l.mac(), sysctls: l.Sysctls, ipv6: l.IP6.IsValid()}
	n.mu.Lock()
	ep := n.endpoint(l)
	n.mu.Unlock()
	if ep.IP.IsValid() {
		w.addrs = append(w.addrs, netip.PrefixFrom(ep.IP, ep.PrefixLen))
	}
	if ep.IP6.IsValid() {
		w.addrs = append(w.addrs, netip.PrefixFrom(ep.IP6, ep.PrefixLen6))
	}
	for _, a := range l.LinkLocal {
		w.addrs = append(w.addrs, netip.PrefixFrom(a, map[bool]int{true: 16, false: 64}[a.Is4()]))
	}
	for _, g := range []netip.Addr{ep.Gateway, ep.Gateway6} {
		if g.IsValid() && !n.cfg.Isolated {
			w.gateways = append(w.gateways, g)
		}
	}
	if n.cfg.bridged() {
		w.host, w.isolated, w.make = vethName(n.cfg.Device, l), !n.cfg.ICC, makeVeth
	} else {
		w.make = n.makeChild
	}
	return w
}

// connect makes the interface, and sets it up. After an error nothing is left.
func (w wire) connect(inside *interior) (err error) {
	if err := w.make(w, inside); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, inside.remove(w.name))
		}
	}()
	if err := inside.configure(w); err != nil {
		return err
	}
	if w.host == "" {
		return nil
	}
	return errors.Join(awaitCarrier(w.host), awaitCarrier(w.dev.name), w.meet())
}

// meet tells the host who has the addresses now. Somebody may have asked for one while it was nobody's, and the kernel
// would wait a second before it asks again.
func (w wire) meet() error {
	for _, a := range w.addrs {
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: w.dev.index, IP: a.Addr().AsSlice(), HardwareAddr: w.mac, State: netlink.NUD_REACHABLE,
		})
		if err != nil {
			return fmt.Errorf("telling the host where %s is: %w", a.Addr(), err)
		}
	}
	return nil
}

// makeVeth makes a pair with its far end in the sandbox.
func makeVeth(w wire, inside *interior) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = w.host, w.dev.mtu, w.dev.index, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: w.name, PeerMTU: uint32(w.dev.mtu),
		PeerHardwareAddr: w.mac, PeerNamespace: netlink.NsFd(int(inside.ns.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		// Joining the bridge is a second request of LinkAdd's: the pair may exist although it failed.
		return errors.Join(fmt.Errorf("making veth pair %s: %w", w.host, needs("veth", err)), w.undo(err))
	}
	// A container that calls its own published port gets its packet back through the bridge port it came from.
	err := netlink.LinkSetHairpin(veth, true)
	if err != nil {
		err = fmt.Errorf("setting hairpin mode of %s: %w", w.host, err)
	} else if w.isolated {
		if err = netlink.LinkSetIsolated(veth, true); err != nil {
			err = fmt.Errorf("isolating %s: %w", w.host, err)
		}
	}
	if err != nil {
		return errors.Join(err, deleteLink(w.host))
	}
	return nil
}

// carrierPatience bounds the wait for the kernel's link watcher, which takes milliseconds.
const carrierPatience = 2 * time.Second

// awaitCarrier returns when a device really forwards. The kernel learns of a new carrier in the background; a packet
// sent before that is lost, and its sender waits a whole second before it tries again. Since Linux 6.8 asking for the
// device makes the kernel catch up (linkwatch_sync_dev in rtnl_getlink); older ones are asked until they have.
func awaitCarrier(name string) error {
	for pause, end := 100*time.Microsecond, time.Now().Add(carrierPatience); ; pause *= 2 {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("waiting for the carrier of %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting for the carrier of %s: still %s after %s", name, link.Attrs().OperState, carrierPatience)
		}
		time.Sleep(pause)
	}
}

// undo removes a half-made pair, but not one that another attach made under the same name.
func (w wire) undo(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return deleteLink(w.host)
}
