package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// widestRoute is the shortest prefix that counts as a network of the host. VPN clients split the default route into
// 0.0.0.0/1 and 128.0.0.0/1; taking those for networks would leave no free subnet at all.
const widestRoute = 8

// significant leaves out what is too wide to be a network.
func significant(used []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(used), func(u netip.Prefix) bool { return u.Bits() < widestRoute })
}

func overlaps(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if u.Bits() >= widestRoute && u.Overlaps(p) {
			return true
		}
	}
	return false
}

// hostNetworks lists the destinations of all of the host's routes, in every routing table. Those of the device
// named except are left out.
func hostNetworks(except string) ([]netip.Prefix, error) {
	skip := -1
	if link, err := netlink.LinkByName(except); err == nil {
		skip = link.Attrs().Index
	}
	routes, err := allRoutes()
	if err != nil {
		return nil, fmt.Errorf("listing the host's routes: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && r.LinkIndex != skip {
			used = append(used, p)
		}
	}
	return used, nil
}

// allRoutes asks again when the kernel says that the table changed while it was read.
func allRoutes() (routes []netlink.Route, err error) {
	for range 5 {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return routes, err
		}
	}
	return routes, nil // after five interruptions a list with a gap is the best there is
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// hostMTU returns the MTU of the device that holds the host's default route, 1500 when there is none.
func hostMTU() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 1500
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU >= 68 {
			return min(link.Attrs().MTU, 65535)
		}
	}
	return 1500
}

// validSubnet says whether a prefix can be a network of containers.
func validSubnet(p netip.Prefix) error {
	switch {
	case !p.Addr().Is4():
		return fmt.Errorf("subnet %s: want an IPv4 prefix", p)
	case p.Bits() < 8 || p.Bits() > 29:
		return fmt.Errorf("subnet %s: want a length from /8 to /29", p)
	}
	return nil
}
