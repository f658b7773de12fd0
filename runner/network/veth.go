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
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// vethPrefix begins the host side's name of every container's veth pair.
const vethPrefix = "gve"

// vethName names the host side. It follows from the network and the lease, so that it is found again after a restart,
// and a container may later join several networks. The address is part of it so that a container that is attached
// again need not wait until its earlier pair is deleted.
func vethName(bridge string, l lease) string {
	sum := sha256.Sum256([]byte(bridge + "/" + l.ID + "/" + l.IP.String()))
	return fmt.Sprintf("%s%x", vethPrefix, sum[:6])
}

// macOf derives a locally administered MAC address from an IP address. An address thus always has the same MAC,
// and no neighbour table goes stale when it passes to another container.
func macOf(ip netip.Addr) net.HardwareAddr {
	a := ip.As4()
	return net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], a[3]}
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
	bridge     int // index of the bridge device
	bridgeName string
	mtu        int
	host       string       // name of the host side
	addr       netip.Prefix // the container's address with the subnet's length
	gateway    netip.Addr
}

// connect makes the veth pair, its far end in the sandbox as eth0. After an error nothing is left.
func (w wire) connect(sandbox *os.File) (err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = w.host, w.mtu, w.bridge, net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerMTU: uint32(w.mtu),
		PeerHardwareAddr: macOf(w.addr.Addr()), PeerNamespace: netlink.NsFd(int(sandbox.Fd())),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		// Joining the bridge is a second request of LinkAdd's: the pair may exist although it failed.
		return errors.Join(fmt.Errorf("making veth pair %s: %w", w.host, needs("veth", err)), w.undo(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, deleteLink(w.host))
		}
	}()
	// A container that calls its own published port gets its packet back through the bridge port it came from.
	if err := netlink.LinkSetHairpin(veth, true); err != nil {
		return fmt.Errorf("setting hairpin mode of %s: %w", w.host, err)
	}
	if err := w.configure(sandbox); err != nil {
		return err
	}
	return errors.Join(awaitCarrier(w.host), awaitCarrier(w.bridgeName))
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

// configure sets up loopback, eth0 and the default route inside the sandbox.
func (w wire) configure(sandbox *os.File) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(sandbox.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("entering the container's network namespace: %w", needs("rtnetlink", err))
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("starting the container's loopback: %w", err)
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("finding the container's eth0: %w", err)
	}
	if err := h.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(w.addr)}); err != nil {
		return fmt.Errorf("giving the container the address %s: %w", w.addr, err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("starting the container's eth0: %w", err)
	}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: w.gateway.AsSlice()}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("adding the container's default route by %s: %w", w.gateway, err)
	}
	return nil
}
