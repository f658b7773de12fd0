// Package dns answers the names of containers, inside their network namespaces: what Docker's resolver at
// 127.0.0.11 answers. Names of a container's networks come from tables that all of a network's containers share;
// everything else is asked of the host's own servers.
//
// Words: a table is the names of one network; an owner, a container or a service, has names and addresses in it; a
// view is what one container sees; a server answers one container.
package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Table is the names of one network. It is safe for concurrent use. Its zero value is empty.
type Table struct {
	mu     sync.RWMutex
	owners map[string]entry
	byName map[string][]string // owners, in the order in which they came
	byAddr map[netip.Addr]string
}

type entry struct {
	names []string
	addrs []netip.Addr
}

// Set says what an owner's names and addresses are, in place of what they were. The first name is the one that
// its addresses have. Names are not case-sensitive.
func (t *Table) Set(owner string, names []string, addrs []netip.Addr) {
	e := entry{addrs: slices.Clone(addrs)}
	for _, n := range names {
		if n = canonical(n); n != "" && !slices.Contains(e.names, n) {
			e.names = append(e.names, n)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.owners == nil {
		t.owners, t.byName, t.byAddr = map[string]entry{}, map[string][]string{}, map[netip.Addr]string{}
	}
	t.drop(owner)
	t.owners[owner] = e
	for _, n := range e.names {
		t.byName[n] = append(t.byName[n], owner)
	}
	for _, a := range e.addrs {
		t.byAddr[a] = owner
	}
}

// Drop forgets an owner.
func (t *Table) Drop(owner string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(owner)
}

func (t *Table) drop(owner string) {
	for _, n := range t.owners[owner].names {
		left := slices.DeleteFunc(slices.Clone(t.byName[n]), func(o string) bool { return o == owner })
		if t.byName[n] = left; len(left) == 0 {
			delete(t.byName, n)
		}
	}
	for _, a := range t.owners[owner].addrs {
		if t.byAddr[a] == owner { // else it is another's by now
			delete(t.byAddr, a)
		}
	}
	delete(t.owners, owner)
}

// lookup returns the addresses of all owners of a canonical name, and whether there is one.
func (t *Table) lookup(name string) (addrs []netip.Addr, found bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, o := range t.byName[name] {
		addrs = append(addrs, t.owners[o].addrs...)
	}
	return addrs, len(t.byName[name]) > 0
}

// nameOf returns the first name of an address's owner.
func (t *Table) nameOf(a netip.Addr) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	o, ok := t.byAddr[a]
	if !ok || len(t.owners[o].names) == 0 {
		return "", false
	}
	return t.owners[o].names[0], true
}

// Network is one of a container's networks.
type Network struct {
	Name  string
	Table *Table
}

// View is what one container sees. It is not to be changed once a server has it.
type View struct {
	Networks []Network         // the one that is asked first is first
	Links    map[string]string // other names that only this container uses, and what they mean
	Upstream []netip.AddrPort  // the servers that know the rest; none: nobody does
}

// lookup returns the addresses of a name, and whether one of the networks knows it: the name, or name.network.
func (v *View) lookup(name string) ([]netip.Addr, bool) {
	name = canonical(name)
	for link, to := range v.Links {
		if canonical(link) == name {
			name = canonical(to)
			break
		}
	}
	for _, n := range v.Networks {
		if addrs, ok := n.Table.lookup(name); ok {
			return addrs, true
		}
		if short, ok := strings.CutSuffix(name, "."+canonical(n.Name)); ok {
			if addrs, ok := n.Table.lookup(short); ok {
				return addrs, true
			}
		}
	}
	return nil, false
}

// nameOf returns the full name of an address, name.network.
func (v *View) nameOf(a netip.Addr) (string, bool) {
	for _, n := range v.Networks {
		if name, ok := n.Table.nameOf(a); ok {
			return name + "." + canonical(n.Name), true
		}
	}
	return "", false
}

// canonical is a name as the tables have it: in lower case, without the dot at its end.
func canonical(name string) string { return strings.TrimSuffix(dns.CanonicalName(name), ".") }
