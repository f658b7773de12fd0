// Package ipam hands out the addresses of networks: which subnet a network has, and which address in it a container.
// It knows IPv4 and IPv6 alike, touches nothing of the host, and its errors are Docker's.
package ipam

import (
	"maps"
	"math"
	"math/big"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/internal/fault"
)

// Config is what a user says of one subnet of a network. Only Subnet is needed.
type Config struct {
	Subnet  netip.Prefix
	Range   netip.Prefix          // the part from which containers get addresses that nobody asked for; zero: all
	Gateway netip.Addr            // the host's address; zero: the first
	Aux     map[string]netip.Addr // addresses that others have, by their names
}

// check says what is wrong with a configuration.
func (c Config) check() error {
	switch s := c.Subnet; {
	case !s.IsValid():
		return fault.Invalid("a network needs a subnet")
	case s != s.Masked():
		return fault.Invalid("invalid subnet %s: it should be %s", s, s.Masked())
	case s.Addr().BitLen()-s.Bits() < 2:
		return fault.Invalid("invalid subnet %s: there is no room for a gateway and a container", s)
	case c.Range.IsValid() && c.Range != c.Range.Masked():
		return fault.Invalid("invalid ip-range %s: it should be %s", c.Range, c.Range.Masked())
	case c.Range.IsValid() && (!s.Contains(c.Range.Addr()) || c.Range.Bits() < s.Bits()):
		return fault.Invalid("invalid ip-range %s: parent subnet %s does not contain ip-range", c.Range, s)
	case c.Gateway.IsValid() && !s.Contains(c.Gateway):
		return fault.Invalid("invalid gateway address %s: parent subnet %s does not contain it", c.Gateway, s)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Aux)) {
		if !c.Subnet.Contains(c.Aux[name]) {
			return fault.Invalid("invalid auxiliary address %s=%s: parent subnet %s does not contain it", name, c.Aux[name], c.Subnet)
		}
	}
	return nil
}

// Pool is the addresses of one subnet. Who comes back gets the address that it had, if nobody else has got it since.
// Else the pool goes round instead of taking the lowest free address, so that a client that still talks to a container
// that ended does not reach the next one. It is not safe for concurrent use.
type Pool struct {
	Subnet  netip.Prefix
	Gateway netip.Addr

	first, last netip.Addr // of those that are handed out unasked
	cursor      netip.Addr // the one handed out most recently
	owner       map[netip.Addr]string
	had         map[netip.Addr]string // who had an address that is free
	old         map[string]netip.Addr // the same by owner
	reserved    map[netip.Addr]bool   // nobody's: network, broadcast, gateway, auxiliary
}

// New makes a pool of which nothing is handed out. A configuration that can't be is an errdefs.ErrInvalidArgument.
func New(c Config) (*Pool, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p := &Pool{Subnet: c.Subnet, Gateway: c.Gateway, owner: map[netip.Addr]string{}, reserved: map[netip.Addr]bool{},
		had: map[netip.Addr]string{}, old: map[string]netip.Addr{}}
	if !p.Gateway.IsValid() {
		p.Gateway = c.Subnet.Addr().Next()
	}
	p.reserved[c.Subnet.Addr()], p.reserved[p.Gateway] = true, true
	if c.Subnet.Addr().Is4() {
		p.reserved[lastOf(c.Subnet)] = true // broadcast
	}
	for _, a := range c.Aux {
		p.reserved[a] = true
	}
	within := c.Range
	if !within.IsValid() {
		within = c.Subnet
	}
	p.first, p.last = within.Addr(), lastOf(within)
	p.cursor = p.last
	if !c.Range.IsValid() && p.Gateway == c.Subnet.Addr().Next() {
		p.cursor = p.Gateway
	}
	return p, nil
}

// Next hands out a free address to owner. errdefs.ErrUnavailable when there is none.
func (p *Pool) Next(owner string) (netip.Addr, error) {
	if a, ok := p.old[owner]; ok && !a.Less(p.first) && !p.last.Less(a) {
		p.give(a, owner)
		return a, nil
	}
	a := p.cursor
	for {
		if a = a.Next(); !a.IsValid() || p.last.Less(a) {
			a = p.first
		}
		if _, taken := p.owner[a]; !taken && !p.reserved[a] {
			p.give(a, owner)
			p.cursor = a
			return a, nil
		}
		if a == p.cursor {
			return netip.Addr{}, errdefs.ErrUnavailable.WithMessage("no available addresses in " + p.Subnet.String() +
				": remove containers or give the network a larger subnet")
		}
	}
}

// Take hands out exactly a. Errors: errdefs.ErrInvalidArgument outside the subnet, ErrPermissionDenied when it is
// another's.
func (p *Pool) Take(a netip.Addr, owner string) error {
	if !p.Subnet.Contains(a) {
		return fault.Invalid("no configured subnet contains IP address %s", a)
	}
	if _, taken := p.owner[a]; taken || p.reserved[a] {
		return fault.Forbidden("Address already in use")
	}
	p.give(a, owner)
	if p.cursor.Less(a) && !a.Less(p.first) && !p.last.Less(a) {
		p.cursor = a
	}
	return nil
}

// Free gives an address back that owner has.
func (p *Pool) Free(a netip.Addr, owner string) {
	if p.owner[a] != owner {
		return
	}
	delete(p.owner, a)
	delete(p.had, p.old[owner])
	p.had[a], p.old[owner] = owner, a
}

// give makes a free address somebody's, which is nobody's old one any more.
func (p *Pool) give(a netip.Addr, owner string) {
	if before, ok := p.had[a]; ok {
		delete(p.old, before)
		delete(p.had, a)
	}
	p.owner[a] = owner
}

// Usage is how many addresses are taken, the reserved ones included, and how many more can be handed out unasked; at
// most what fits into 64 bits.
func (p *Pool) Usage() (taken, free uint64) {
	size := func(first, last netip.Addr) *big.Int {
		n := new(big.Int).SetBytes(last.AsSlice())
		return n.Add(n.Sub(n, new(big.Int).SetBytes(first.AsSlice())), big.NewInt(1))
	}
	left := size(p.first, p.last)
	for a := range p.reserved {
		if taken++; !a.Less(p.first) && !p.last.Less(a) {
			left.Sub(left, big.NewInt(1))
		}
	}
	for a := range p.owner {
		if taken++; !a.Less(p.first) && !p.last.Less(a) {
			left.Sub(left, big.NewInt(1))
		}
	}
	if !left.IsUint64() {
		return taken, math.MaxUint64
	}
	return taken, left.Uint64()
}

// InUse is how many addresses are handed out.
func (p *Pool) InUse() int { return len(p.owner) }

// lastOf returns the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(a)*8; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(a)
	return last
}
