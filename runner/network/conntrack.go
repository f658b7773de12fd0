package network

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// udpFlows matches UDP connections that the kernel still tracks: those to one of the host's ports, and those that were
// translated to the container. UDP has no end of a connection, so they live as long as the client keeps sending, and
// go on to where they went before the container came, or after it left.
type udpFlows struct {
	container []netip.Addr
	host      map[netip.AddrPort]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (u udpFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	source, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	target, _ := netip.AddrFromSlice(f.Forward.DstIP)
	return slices.Contains(u.container, source.Unmap()) || u.host[netip.AddrPortFrom(target.Unmap(), f.Forward.DstPort)]
}

// flowsOf returns the filter of a container's UDP ports, and whether it has any.
func flowsOf(l lease, local []netip.Addr) (udpFlows, bool) {
	u := udpFlows{container: l.addresses(), host: map[netip.AddrPort]bool{}}
	publishes := false
	for _, p := range l.Ports {
		if p.Proto != "udp" {
			continue
		}
		publishes = true
		if !p.HostIP.IsUnspecified() {
			u.host[p.host()] = true
			continue
		}
		for _, a := range local {
			u.host[netip.AddrPortFrom(a, p.HostPort)] = true
		}
	}
	return u, publishes
}

// localAddresses lists the host's addresses; flows to others, such as the host's own DNS queries, must not be lost.
func localAddresses() []netip.Addr {
	var all []netip.Addr
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, ip.Unmap())
			}
		}
	}
	return all
}

// dropFlows forgets the flows of a container's UDP ports. It reads the whole table of connections, so only
// containers that publish a UDP port pay for it. Failure only means that old flows stick for some time.
func (n *Network) dropFlows(l lease) {
	if _, publishes := flowsOf(l, nil); !publishes {
		return
	}
	filter, _ := flowsOf(l, localAddresses())
	families := []netlink.InetFamily{unix.AF_INET}
	if l.IP6.IsValid() {
		families = append(families, unix.AF_INET6)
	}
	for _, f := range families {
		n.dropMatching(f, filter, l.ID)
	}
}

func (n *Network) dropMatching(family netlink.InetFamily, filter udpFlows, id string) {
	var err error
	for range 5 { // a table that changes while it is read is read again
		if _, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter); err == nil {
			return
		}
	}
	n.log.Warn("could not drop old UDP flows", "container", id, "error", err)
}
