package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network/netns"
)

// interior is a sandbox seen from inside.
type interior struct {
	ns *os.File
	h  *netlink.Handle
}

// look opens a sandbox's interior, which does not own ns.
func look(ns *os.File) (*interior, error) {
	h, err := netlink.NewHandleAt(vnetns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("entering the container's network namespace: %w", needs("rtnetlink", err))
	}
	return &interior{ns, h}, nil
}

// Close closes the connection to the kernel.
func (i *interior) Close() { i.h.Close() }

// mostInterfaces bounds the search for a free name.
const mostInterfaces = 1000

// free returns a name for an interface: the wanted one, or the first of eth0, eth1 and so on that is not taken.
func (i *interior) free(wanted, prefix string) (string, error) {
	if wanted != "" {
		if !deviceName.MatchString(wanted) {
			return "", fault.Invalid("interface name %q: want 1 to 15 letters, digits, . - or _, beginning with a letter", wanted)
		}
		if _, err := i.h.LinkByName(wanted); err == nil {
			return "", fault.Invalid("the container has an interface %s already", wanted)
		}
		return wanted, nil
	}
	for k := range mostInterfaces {
		name := fmt.Sprint(prefix, k)
		if _, err := i.h.LinkByName(name); isNotFound(err) {
			return name, nil
		} else if err != nil {
			return "", fmt.Errorf("looking at the container's interfaces: %w", err)
		}
	}
	return "", fmt.Errorf("the container has %d interfaces", mostInterfaces)
}

// configure sets up loopback, the new interface, and the default route where there is none.
func (i *interior) configure(w wire) error {
	lo, err := i.h.LinkByName("lo")
	if err == nil {
		err = i.h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("starting the container's loopback: %w", err)
	}
	if err := i.tune(w); err != nil {
		return err
	}
	eth, err := i.h.LinkByName(w.name)
	if err != nil {
		return fmt.Errorf("finding the container's %s: %w", w.name, err)
	}
	for _, a := range w.addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := i.h.AddrAdd(eth, addr); err != nil {
			return fmt.Errorf("giving the container the address %s: %w", a, needs("ipv6", err))
		}
	}
	if err := i.h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("starting the container's %s: %w", w.name, err)
	}
	for _, g := range w.gateways {
		err := i.h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: everywhere(g), Gw: g.AsSlice()})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding the container's default route by %s: %w", g, err)
		}
	}
	return nil
}

// everywhere is the prefix of all addresses of a's family.
func everywhere(a netip.Addr) *net.IPNet {
	if a.Is4() {
		return ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

// tune sets the interface's kernel parameters: where the network has no IPv6, the interface has none, as in Docker.
func (i *interior) tune(w wire) error {
	return netns.Do(i.ns, func() error {
		off := "1"
		if w.ipv6 {
			off = "0"
		}
		_, err := setSysctl("/proc/sys/net/ipv6/conf/"+w.name+"/disable_ipv6", off)
		if errors.Is(err, os.ErrNotExist) && !w.ipv6 { // a kernel without IPv6
			err = nil
		}
		if err != nil {
			return err
		}
		for _, s := range w.sysctls {
			key, value, ok := strings.Cut(s, "=")
			path, perr := sysctlPath(key, w.name)
			if !ok || perr != nil {
				return fault.Invalid("invalid sysctl of an interface: %q: want net.X.Y.IFNAME.Z=VALUE", s)
			}
			if _, err := setSysctl(path, value); err != nil {
				return err
			}
		}
		return nil
	})
}

// sysctlPath is the file of a parameter net.X.Y.IFNAME.Z of an interface.
func sysctlPath(key, name string) (string, error) {
	parts := strings.Split(key, ".")
	if len(parts) != 5 || parts[0] != "net" || parts[3] != "IFNAME" || strings.ContainsAny(key, "/ ") {
		return "", fmt.Errorf("%q is no parameter of an interface", key)
	}
	parts[3] = name
	return "/proc/sys/" + strings.Join(parts, "/"), nil
}

// remove deletes an interface; its pair goes with it.
func (i *interior) remove(name string) error {
	link, err := i.h.LinkByName(name)
	if err == nil {
		err = i.h.LinkDel(link)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("deleting the container's %s: %w", name, err)
	}
	return nil
}

// SetGateways gives the network namespace of a process its default routes, each by an endpoint's gateway; a zero
// address takes the route of its family away.
func SetGateways(pid int, gateway, gateway6 netip.Addr) error {
	ns, err := openSandbox(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	i, err := look(ns)
	if err != nil {
		return err
	}
	defer i.Close()
	for _, f := range []struct {
		number int
		by     netip.Addr
		any    netip.Addr
	}{{netlink.FAMILY_V4, gateway, netip.IPv4Unspecified()}, {netlink.FAMILY_V6, gateway6, netip.IPv6Unspecified()}} {
		if err := i.setGateway(f.number, f.by, f.any); err != nil {
			return err
		}
	}
	return nil
}

func (i *interior) setGateway(family int, by, unspecified netip.Addr) error {
	have, err := i.h.RouteList(nil, family)
	if err != nil {
		return fmt.Errorf("looking at the container's routes: %w", err)
	}
	for _, r := range have {
		if r.Gw == nil || r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if a, _ := netip.AddrFromSlice(r.Gw); a.Unmap() == by {
			by = netip.Addr{} // it is there
			continue
		}
		if err := i.h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("taking the container's default route away: %w", err)
		}
	}
	if !by.IsValid() {
		return nil
	}
	if err := i.h.RouteAdd(&netlink.Route{Dst: everywhere(unspecified), Gw: by.AsSlice()}); err != nil {
		return fmt.Errorf("adding the container's default route by %s: %w", by, err)
	}
	return nil
}

// deleteInside deletes the interface of a lease in its container, if that lives.
func deleteInside(l lease) error {
	ns, err := openSandbox(l.PID)
	if err != nil {
		return nil // gone with its namespace
	}
	defer ns.Close()
	i, err := look(ns)
	if err != nil {
		return err
	}
	defer i.Close()
	return i.remove(l.Interface)
}
