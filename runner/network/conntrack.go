package network

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// udpFlows matches UDP connections that the kernel still tracks: those to one of the host ports, and those that were
// translated to the container. Without an end in the protocol they live as long as the client keeps sending, and go
// on to where they went before the container came, or after it left.
type udpFlows struct {
	container netip.Addr
	hostPorts map[uint16]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (u udpFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	source, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	return source.Unmap() == u.container || u.hostPorts[f.Forward.DstPort]
}

// dropFlows forgets the flows of a container's UDP ports. It reads the whole table of connections, so only
// containers that publish a UDP port pay for it. Failure only means that old flows stick for some time.
func (b *Bridge) dropFlows(l lease) {
	filter := udpFlows{container: l.IP, hostPorts: map[uint16]bool{}}
	for _, p := range l.Ports {
		if p.Proto == "udp" {
			filter.hostPorts[p.HostPort] = true
		}
	}
	if len(filter.hostPorts) == 0 {
		return
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
		b.log.Debug("could not drop old UDP flows", "container", l.ID, "error", err)
	}
}
