package network

import (
	"fmt"
	"net"
	"net/netip"
)

// pool hands out the addresses of one subnet. It goes round instead of taking the lowest free address, so that a
// client that still talks to a container that ended does not reach the next one. It is not safe for concurrent use.
type pool struct {
	subnet  netip.Prefix
	gateway netip.Addr
	last    netip.Addr // the broadcast address: never handed out
	cursor  netip.Addr // the address handed out most recently
	owner   map[netip.Addr]string
}

func newPool(subnet netip.Prefix) *pool {
	subnet = subnet.Masked()
	gateway := subnet.Addr().Next()
	return &pool{subnet: subnet, gateway: gateway, last: lastOf(subnet), cursor: gateway, owner: map[netip.Addr]string{}}
}

// next takes the next free address for id.
func (p *pool) next(id string) (netip.Addr, error) {
	ip := p.cursor
	for range 1 << (32 - p.subnet.Bits()) {
		if ip = ip.Next(); !ip.Less(p.last) {
			ip = p.gateway.Next()
		}
		if _, taken := p.owner[ip]; !taken {
			p.owner[ip] = id
			p.cursor = ip
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no free address in %s: remove containers or give the network a larger subnet", p.subnet)
}

// take reserves exactly ip for id.
func (p *pool) take(ip netip.Addr, id string) error {
	if !p.subnet.Contains(ip) || ip == p.subnet.Addr() || ip == p.gateway || ip == p.last {
		return fmt.Errorf("%s is not a container's address in %s", ip, p.subnet)
	}
	if owner, taken := p.owner[ip]; taken {
		return fmt.Errorf("%s belongs to container %s", ip, owner)
	}
	p.owner[ip] = id
	if p.cursor.Less(ip) {
		p.cursor = ip
	}
	return nil
}

func (p *pool) free(ip netip.Addr) { delete(p.owner, ip) }

// lastOf returns the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a)
}

// macOf derives a locally administered MAC address from an IP address. An address thus always has the same MAC,
// and no neighbour table goes stale when it passes to another container.
func macOf(ip netip.Addr) net.HardwareAddr {
	a := ip.As4()
	return net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], a[3]}
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
