package runner

import (
	"context"
	"maps"
	"net/netip"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
)

// Names are what others in a network call somebody who is no container of this machine, and the addresses of that name.
type Names struct {
	Names []string
	Addrs []netip.Addr
}

// SetPeers says which addresses of an overlay network are on other nodes. One that is not here is no error.
func (m *Manager) SetPeers(id string, peers []network.Peer) error {
	on, ok := m.o.Network.Network(id)
	if !ok {
		return nil
	}
	return on.SetPeers(peers)
}

// EnsureNetwork makes what a network needs on the host, if it is not there.
func (m *Manager) EnsureNetwork(ctx context.Context, id string) error {
	on, ok := m.o.Network.Network(id)
	if !ok {
		return fault.NotFound("network %s not found", id)
	}
	_, err := on.Up(ctx)
	return err
}

// Repair puts right what the kernel has of an overlay network, and says how much was wrong.
func (m *Manager) Repair(ctx context.Context, id string) (int, error) {
	on, ok := m.o.Network.Network(id)
	if !ok {
		return 0, nil
	}
	return on.Repair(ctx)
}

// SetNames says by their owners what is to be found in a network beside the containers of this machine, in place of what it has
// said before.
func (m *Manager) SetNames(id string, all map[string]Names) {
	m.nets.Lock()
	defer m.nets.Unlock()
	table := m.tables[id]
	if table == nil {
		return
	}
	if m.others == nil {
		m.others = map[string]map[string]Names{}
	}
	for owner := range m.others[id] {
		if _, ok := all[owner]; !ok {
			table.Drop(owner)
		}
	}
	for owner, n := range all {
		table.Set(owner, n.Names, n.Addrs)
	}
	m.others[id] = maps.Clone(all)
}

// OnJoin has f called with each container when it has come into its networks, before its first process begins, and again when they
// change. Its error fails the start.
func (m *Manager) OnJoin(f func(Record) error) { m.onJoin.Store(&f) }

// joined calls what OnJoin has been given.
func (m *Manager) joined(rec Record) error {
	if f := m.onJoin.Load(); f != nil {
		return (*f)(rec)
	}
	return nil
}
