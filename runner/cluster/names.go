package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster/topology"
	"github.com/gantry-build/gantry/runner/network"
)

// namesIn are a network's names, but for those of this node's containers.
func namesIn(k topology.Network, own netip.Addr) map[string]runner.Names {
	all := map[string]runner.Names{}
	for _, s := range k.Services {
		var tasks []netip.Addr
		for _, t := range s.Tasks {
			tasks = append(tasks, t.Addrs...)
			if t.At != own { // else it has told its names itself
				all["task/"+t.Name] = runner.Names{Names: []string{t.Name}, Addrs: t.Addrs}
			}
		}
		to := s.VIP
		if len(to) == 0 {
			to = tasks
		}
		if len(s.Tasks) == 1 && s.Name == s.Tasks[0].Name { // a plain container
			if s.Tasks[0].At != own {
				all["task/"+s.Name] = runner.Names{Names: append([]string{s.Name}, s.Aliases...), Addrs: tasks}
			}
			continue
		}
		if len(to) > 0 {
			all["service/"+s.ID] = runner.Names{Names: append([]string{s.Name}, s.Aliases...), Addrs: to}
		}
		if len(tasks) > 0 {
			all["tasks/"+s.ID] = runner.Names{Names: []string{"tasks." + s.Name}, Addrs: tasks}
		}
	}
	return all
}

// tell gives a container the virtual addresses of its networks' services, if it has not got them.
func (n *networks) tell(rec runner.Record) error {
	var all []network.Virtual
	overlay := false
	for _, a := range rec.Attachments {
		n.mu.Lock()
		k, ok := n.known[a.Network]
		n.mu.Unlock()
		if !ok || a.Endpoint == nil {
			continue
		}
		overlay = true
		for _, s := range k.Services {
			for _, vip := range s.VIP {
				all = append(all, network.Virtual{Addr: vip, Backends: ofFamily(s, vip.Is4())})
			}
		}
	}
	key := keyOf(rec)
	text := fmt.Sprint(all)
	n.mu.Lock()
	same := n.told[key] == text
	n.mu.Unlock()
	if same || !overlay {
		return nil
	}
	if err := network.SetVirtual(rec.State.Pid, all); err != nil {
		if _, gone := n.o.Runner.Get(rec.ID); gone != nil {
			return nil
		}
		return fmt.Errorf("the services' addresses in container %s: %w", rec.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told[key] = text
	return nil
}

func ofFamily(s topology.Service, is4 bool) (all []netip.Addr) {
	for _, t := range s.Tasks {
		for _, a := range t.Addrs {
			if a.Is4() == is4 {
				all = append(all, a)
			}
		}
	}
	return all
}

// meshOf is where the published ports lead.
func meshOf(k topology.Network, own netip.Addr) *network.Mesh {
	m := &network.Mesh{}
	for _, s := range k.Services {
		var behind []netip.Addr
		for _, t := range s.Tasks {
			if t.At == own {
				m.Local = append(m.Local, t.Addrs...)
			}
			if t.At == own || !s.Local {
				behind = append(behind, t.Addrs...)
			}
		}
		for _, p := range s.Ports {
			made := network.MeshPort{Protocol: p.Protocol, Number: p.Published}
			for _, a := range behind {
				made.Backends = append(made.Backends, netip.AddrPortFrom(a, p.Target))
			}
			m.Ports = append(m.Ports, made)
		}
	}
	return m
}

// Topology is what this node has been told of a network; false when it is in none of that ID.
func (c *Cluster) Topology(id string) (topology.Network, bool) {
	m := c.current()
	if m == nil {
		return topology.Network{}, false
	}
	m.nets.mu.Lock()
	defer m.nets.mu.Unlock()
	k, ok := m.nets.known[id]
	return k, ok
}

// openMesh publishes the services' ports on this node.
func (n *networks) openMesh(k topology.Network, rec runner.NetworkRecord, own netip.Addr) error {
	m := meshOf(k, own)
	m.Device, m.Node = rec.Config.Device, rec.Config.Overlay.Node
	text := fmt.Sprint(*m)
	n.mu.Lock()
	same := n.toldOff == text
	n.mu.Unlock()
	if same {
		return nil
	}
	if err := n.o.Network.SetMesh(m); err != nil {
		return fmt.Errorf("the cluster's published ports: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.toldOff = text
	return nil
}

// forgetNetworks takes away what the cluster's networks have here.
func (c *Cluster) forgetNetworks() error {
	if c.o.Network == nil {
		return nil
	}
	errs := []error{c.o.Network.SetMesh(nil)}
	for _, rec := range c.o.Runner.Networks() {
		if rec.Driver == network.DriverOverlay {
			if err := c.o.Runner.RemoveNetwork(context.Background(), rec.ID); err != nil { // a plain container is in it
				c.o.Log.Warn("a network of the cluster that was left stays", "network", rec.Name, "error", err)
			}
		}
	}
	return errors.Join(errs...)
}
