package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/dns"
)

// A container that runs is introduced to its networks, and they to it: its names and addresses are in the networks'
// tables, a name server answers it from them, and its hosts file says who it is. Names are for networks that users have
// made, as in Docker; the default one has links in hosts files.

// servers are the name servers of the containers that run. The zero value works.
type servers struct {
	mu sync.Mutex
	of map[string]*dns.Server
}

// close ends the servers, which the next daemon opens again.
func (s *servers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.of {
		_ = server.Close()
	}
	s.of = nil
}

// introduce brings tables, name server and files in line with a container's networks. It does nothing for one that does
// not run.
func (m *Manager) introduce(c *container) error {
	rec := c.record()
	if !rec.State.Running || rec.State.Pid == 0 {
		return nil
	}
	return m.introduceAs(c, rec)
}

// introduceAs is introduce with a record that is not booked yet. A container in another's network is that one's guest,
// and one in the host's has the host's names.
func (m *Manager) introduceAs(c *container, rec Record) error {
	if mode := rec.HostConfig.NetworkMode; strings.HasPrefix(mode, "container:") {
		return nil
	}
	m.announce(rec)
	return errors.Join(m.serveNames(rec), m.writeResolv(c, rec), m.writeHosts(c, rec), m.joined(rec))
}

// announce says in the tables of all networks where a container is.
func (m *Manager) announce(rec Record) {
	for _, n := range m.Networks() {
		table := m.table(n.ID)
		if table == nil || !n.names() {
			continue
		}
		a, in := rec.in(n.ID)
		if !in || a.Endpoint == nil {
			table.Drop(rec.ID)
			continue
		}
		var addrs []netip.Addr
		for _, ip := range []netip.Addr{a.Endpoint.IP, a.Endpoint.IP6} {
			if ip.IsValid() {
				addrs = append(addrs, ip)
			}
		}
		table.Set(rec.ID, rec.NamesIn(a), addrs)
	}
}

// NamesIn are the names by which others in a network know a container, its own first.
func (r Record) NamesIn(a Attachment) []string {
	names := append([]string{r.Name}, a.Aliases...)
	return slices.Compact(append(names, stringid.TruncateID(r.ID), r.Config.Hostname))
}

func (m *Manager) table(id string) *dns.Table {
	m.nets.Lock()
	defer m.nets.Unlock()
	return m.tables[id]
}

// farewell undoes introduce.
func (m *Manager) farewell(rec Record) {
	m.nets.Lock()
	for _, t := range m.tables {
		t.Drop(rec.ID)
	}
	m.nets.Unlock()
	m.servers.mu.Lock()
	s := m.servers.of[rec.ID]
	delete(m.servers.of, rec.ID)
	m.servers.mu.Unlock()
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		m.log.Debug("closing a container's name server", "container", rec.ID, "error", err)
	}
}

// named says whether a container is to have a name server.
func (m *Manager) named(rec Record) bool {
	return slices.ContainsFunc(rec.Attachments, func(a Attachment) bool {
		n, err := m.NetworkOf(cmp.Or(a.Network, a.Name))
		return err == nil && n.names()
	})
}

// serveNames opens a container's name server, or tells it of new networks.
func (m *Manager) serveNames(rec Record) error {
	if !m.named(rec) {
		return nil // one that has been opened goes with the run
	}
	view, err := m.view(rec)
	if err != nil {
		return err
	}
	m.servers.mu.Lock()
	defer m.servers.mu.Unlock()
	if s := m.servers.of[rec.ID]; s != nil {
		s.SetView(view)
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", rec.State.Pid))
	if err != nil {
		return fmt.Errorf("the network namespace of container %s: %w", rec.ID, err)
	}
	defer ns.Close()
	s, err := dns.ServeInside(ns, view, m.log.With("container", rec.ID))
	if err != nil {
		return err
	}
	if m.servers.of == nil {
		m.servers.of = map[string]*dns.Server{}
	}
	m.servers.of[rec.ID] = s
	return nil
}

// view is what a container sees of names. One that is only in internal networks does not ask the host's servers.
func (m *Manager) view(rec Record) (*dns.View, error) {
	v := &dns.View{Links: map[string]string{}}
	inside := true
	for _, a := range rec.Attachments {
		n, err := m.NetworkOf(a.Network)
		if err != nil {
			continue
		}
		inside = inside && n.Config.Internal
		if t := m.table(n.ID); t != nil && n.names() {
			v.Networks = append(v.Networks, dns.Network{Name: n.Name, Table: t})
		}
		for _, l := range a.Links {
			name, alias, _ := strings.Cut(l, ":")
			if other, err := m.find(name); err == nil {
				name = other.record().Name
			}
			v.Links[cmp.Or(alias, name)] = name
		}
	}
	if inside {
		return v, nil
	}
	asked, err := resolver(rec.HostConfig)
	if err != nil {
		return nil, err
	}
	host, err := network.HostServers()
	if len(asked.Servers) > 0 {
		host = asked.Servers
	}
	for _, s := range host {
		v.Upstream = append(v.Upstream, netip.AddrPortFrom(s, 53))
	}
	return v, err
}

// linked are the entries of a hosts file for the containers that --link names on the default network.
func (m *Manager) linked(rec Record) (entries []string, err error) {
	for _, l := range rec.HostConfig.Links {
		name, alias := SplitLink(l)
		c, err := m.find(name)
		if err != nil {
			return nil, fault.Invalid("could not get container for %s: %v", name, err)
		}
		other := c.record()
		if !other.State.Running {
			return nil, fault.Invalid("Cannot link to a non running container: /%s AS /%s/%s", other.Name, rec.Name, alias)
		}
		way, _ := other.Ways()
		if way == nil {
			continue
		}
		for _, n := range slices.Compact([]string{alias, other.Config.Hostname, other.Name}) {
			entries = append(entries, n+":"+way.Endpoint.IP.String())
		}
	}
	return entries, nil
}

// SplitLink reads NAME:ALIAS; the alias is the name where there is none. Clients send back /NAME:/OWN/ALIAS.
func SplitLink(l string) (name, alias string) {
	name, alias, ok := strings.Cut(l, ":")
	name = strings.TrimPrefix(name, "/")
	if !ok {
		return name, name
	}
	return name, alias[strings.LastIndex(alias, "/")+1:]
}

// Linked is the ID of the container that another one calls alias by --link. errdefs.ErrNotFound when it has no such link.
func (m *Manager) Linked(ref, alias string) (string, error) {
	c, err := m.find(ref)
	if err != nil {
		return "", err
	}
	for _, l := range c.record().HostConfig.Links {
		if name, as := SplitLink(l); as == alias {
			to, err := m.find(name)
			if err != nil {
				return "", err
			}
			return to.id, nil
		}
	}
	return "", errdefs.ErrNotFound.WithMessage("No such container: " + ref + "/" + alias)
}

// relink tells the containers that link to one that has been started where it is now.
func (m *Manager) relink(rec Record) {
	for _, c := range m.all() {
		other := c.record()
		if !other.State.Running || !slices.ContainsFunc(other.HostConfig.Links, func(l string) bool {
			name, _ := SplitLink(l)
			target, err := m.find(name)
			return err == nil && target.id == rec.ID
		}) {
			continue
		}
		if err := m.writeHosts(c, other); err != nil {
			m.log.Warn("telling a container where another is now", "container", other.ID, "error", err)
		}
	}
}

// gatewayOf is by which address a container reaches the host.
func (m *Manager) gatewayOf(ctx context.Context, rec Record) netip.Addr {
	if way, _ := rec.Ways(); way != nil {
		return way.Endpoint.Gateway
	}
	own := m.o.Network.Default()
	if g := own.Gateway(); g.IsValid() {
		return g
	}
	g, err := own.Up(ctx)
	if err != nil {
		m.log.Warn("finding the host's address for a container", "container", rec.ID, "error", err)
	}
	return g
}
