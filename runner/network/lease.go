package network

import (
	"net/netip"
	"slices"

	"github.com/gantry-build/gantry/internal/fault"
)

// retake takes the addresses of a lease that was read.
func (n *Network) retake(l lease) error {
	for _, a := range l.addresses() {
		if _, err := n.takeAddress(l.ID, a, a.Is4()); err != nil {
			return err
		}
	}
	return nil
}

// owner names a container of this network in the table of ports.
func (n *Network) owner(id string) string { return n.cfg.ID + "/" + id }

// take gives a lease its addresses and host ports, and writes both down before anything of the host changes.
func (n *Network) take(l lease) (_ lease, err error) {
	if _, attached := n.Endpoint(l.ID); attached {
		return lease{}, ErrAttached
	}
	if l.Ports, err = n.reserve(l.ID, l.Ports); err != nil {
		return lease{}, err
	}
	n.mu.Lock()
	l, err = n.takeAddresses(l)
	if err == nil {
		n.leases[l.ID] = l
	}
	n.mu.Unlock()
	if err == nil && !l.fleeting {
		err = n.store.save(l)
	}
	if err != nil {
		n.forget(l)
		return lease{}, err
	}
	return l, nil
}

// reserve takes ports of the host. One that names no address is bound to the network's own, or to all of the host's, of
// each family that the network speaks.
func (n *Network) reserve(id string, ports []Port) ([]Port, error) {
	ports = slices.Clone(ports)
	both := make([]bool, len(ports))
	for i, p := range ports {
		if p.HostIP.IsValid() {
			continue
		}
		switch {
		case n.cfg.HostIP.IsValid():
			ports[i].HostIP = n.cfg.HostIP
		case !n.cfg.IPv4:
			ports[i].HostIP = netip.IPv6Unspecified()
		default:
			both[i] = n.cfg.IPv6
		}
	}
	got, err := n.host.ports.reserve(n.owner(id), ports)
	if err != nil {
		return nil, err
	}
	var more []Port
	for i, p := range got {
		if both[i] {
			p.HostIP = netip.IPv6Unspecified()
			more = append(more, p)
		}
	}
	if more, err = n.host.ports.reserve(n.owner(id), more); err != nil {
		return nil, err
	}
	return append(got, more...), nil
}

// takeAddresses gives a lease the addresses that it asks for, and others where it does not. It is called with n.mu held.
func (n *Network) takeAddresses(l lease) (_ lease, err error) {
	asked, asked6 := l.IP, l.IP6
	l.IP, l.IP6 = netip.Addr{}, netip.Addr{}
	if l.IP, err = n.takeAddress(l.ID, asked, true); err == nil {
		l.IP6, err = n.takeAddress(l.ID, asked6, false)
	}
	return l, err
}

// takeAddress takes an address of a family, the asked one if that is valid. It is zero when the network does not speak
// the family. It is called with n.mu held.
func (n *Network) takeAddress(id string, asked netip.Addr, is4 bool) (netip.Addr, error) {
	var last error
	for _, p := range n.pools {
		if p.Subnet.Addr().Is4() != is4 {
			continue
		}
		if asked.IsValid() {
			if p.Subnet.Contains(asked) {
				return asked, p.Take(asked, id)
			}
			continue
		}
		a, err := p.Next(id)
		if err == nil {
			return a, nil
		}
		last = err
	}
	if asked.IsValid() {
		return netip.Addr{}, fault.Invalid("no configured subnet contains IP address %s", asked)
	}
	return netip.Addr{}, last
}

// forget undoes take.
func (n *Network) forget(l lease) {
	n.store.drop(l.ID)
	n.host.ports.release(n.owner(l.ID))
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.leases, l.ID)
	for _, a := range l.addresses() {
		for _, p := range n.pools {
			p.Free(a, l.ID)
		}
	}
}
