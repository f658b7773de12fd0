// Package topology tells each node of a cluster what is where on its networks: which address is on which node, and which tasks stand
// behind a service's name, virtual address and ports. SwarmKit tells an agent its own tasks only. Managers compute it from the
// cluster's store (Hub) and push it over the cluster's mutual TLS (Serve); nodes follow one of them (Follow), and keep what they
// know when no manager answers.
package topology

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/swarmkit/v2/api"
)

// Network is what is to be known of one network.
type Network struct {
	ID       string
	Ingress  bool      `json:",omitempty"`
	Ends     []End     `json:",omitempty"` // all addresses, of tasks and nodes
	Services []Service `json:",omitempty"`
}

// End is an address, and the node on which it is.
type End struct {
	Addr netip.Addr
	At   netip.Addr // by which other nodes reach that node
	Node string     `json:",omitempty"` // the node's name, when the address is its own
	As   netip.Addr `json:",omitzero"`  // the first address of the same task or node, when this is another
}

// Service is one with an address or tasks on the network.
type Service struct {
	ID, Name string
	VIP      []netip.Addr `json:",omitempty"` // none: names lead to the tasks
	Aliases  []string     `json:",omitempty"`
	Tasks    []Task       `json:",omitempty"` // those that take requests
	Ports    []Port       `json:",omitempty"` // by which it is reached from outside, on the ingress network only
	Local    bool         `json:",omitempty"` // its ports lead to tasks of the node that is asked, and to no others
}

// ingressLabel is the label of a service whose published ports stay on their node when it is "local": its clients are seen as they
// are, and a node without a task of it refuses them.
const ingressLabel = "com.gantry.ingress"

// Task is one that runs, and is to go on.
type Task struct {
	Name  string
	Addrs []netip.Addr
	At    netip.Addr
}

// Port is one that all nodes publish.
type Port struct {
	Protocol          string // tcp, udp or sctp
	Published, Target uint16
}

// pathPlugin is the type of the plugin as which a node tells by which address others reach its containers: there is no other
// field in a node's description.
const pathPlugin = "DataPath"

// Describe adds to a description by which address other nodes reach this one's containers.
func Describe(d *api.NodeDescription, at netip.Addr) {
	if at.IsValid() {
		d.Engine.Plugins = append(d.Engine.Plugins, api.PluginDescription{Type: pathPlugin, Name: at.String()})
	}
}

// pathOf is the address by which others reach a node's containers; the one that its managers see where it says none.
func pathOf(n *api.Node) netip.Addr {
	if d := n.Description; d != nil && d.Engine != nil {
		for _, p := range d.Engine.Plugins {
			if a, err := netip.ParseAddr(p.Name); p.Type == pathPlugin && err == nil {
				return a
			}
		}
	}
	a, _ := netip.ParseAddr(n.Status.Addr)
	return a
}

// addrs are addresses that SwarmKit has with or without the length of their subnet.
func addrs(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		host, _, _ := strings.Cut(t, "/")
		if a, err := netip.ParseAddr(host); err == nil {
			all = append(all, a)
		}
	}
	return all
}

func nodeName(n *api.Node) string {
	if d := n.Description; d != nil && d.Hostname != "" {
		return d.Hostname
	}
	return n.ID
}

// attachments are a node's places in networks.
func attachments(n *api.Node) []*api.NetworkAttachment {
	if n.Attachment != nil && len(n.Attachments) == 0 {
		return []*api.NetworkAttachment{n.Attachment}
	}
	return n.Attachments
}

// compute says of each overlay network what is to be known of it.
func compute(s *store) map[string]*Network {
	all := map[string]*Network{}
	for id, n := range s.networks {
		if n.DriverState != nil && n.DriverState.Name == "overlay" {
			all[id] = &Network{ID: id, Ingress: n.Spec.Ingress}
		}
	}
	for _, n := range s.nodes {
		for _, at := range attachments(n) {
			all[at.Network.ID].end(pathOf(n), addrs(at.Addresses...), nodeName(n))
		}
	}
	behind := map[string][]*api.Task{} // services
	for _, t := range s.tasks {
		node := s.nodes[t.NodeID]
		if node == nil || t.Status.State > api.TaskStateRunning || t.Status.State < api.TaskStateAssigned {
			continue
		}
		for _, at := range t.Networks {
			all[at.Network.ID].end(pathOf(node), addrs(at.Addresses...), "")
			if t.Spec.GetAttachment() != nil && all[at.Network.ID] != nil {
				n := all[at.Network.ID]
				n.Services = append(n.Services, claimed(t, at, pathOf(node)))
			}
		}
		if t.Spec.GetAttachment() != nil {
			continue
		}
		if t.Status.State == api.TaskStateRunning && t.DesiredState <= api.TaskStateRunning && node.Status.State != api.NodeStatus_DOWN {
			behind[t.ServiceID] = append(behind[t.ServiceID], t)
		}
	}
	for id, service := range s.services {
		for network, made := range serviceOn(s, service, behind[id]) {
			if n := all[network]; n != nil {
				n.Services = append(n.Services, made)
			}
		}
	}
	for _, n := range all {
		n.sort()
	}
	return all
}

// ClaimName is what a claim for a place in a network is called, so that all nodes know the container's names: SwarmKit passes on no
// more than this.
func ClaimName(container, nonce string, names []string) string {
	return strings.Join(append([]string{container, nonce}, names...), "/")
}

// claimed is a container that is no task of a service, in a network.
func claimed(t *api.Task, at *api.NetworkAttachment, where netip.Addr) Service {
	s := Service{ID: t.ID}
	if parts := strings.Split(t.Spec.GetAttachment().ContainerID, "/"); len(parts) > 2 {
		s.Name, s.Aliases = parts[2], parts[3:]
	}
	s.Tasks = []Task{{Name: s.Name, Addrs: addrs(at.Addresses...), At: where}}
	return s
}

func (n *Network) end(at netip.Addr, all []netip.Addr, node string) {
	if n == nil || !at.IsValid() {
		return
	}
	for _, a := range all {
		e := End{Addr: a, At: at, Node: node}
		if a != all[0] {
			e.As = all[0]
		}
		n.Ends = append(n.Ends, e)
	}
}

// sort gives equal networks equal bytes.
func (n *Network) sort() {
	slices.SortFunc(n.Ends, func(a, b End) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(n.Services, func(a, b Service) int { return strings.Compare(a.ID, b.ID) })
	for _, s := range n.Services {
		slices.SortFunc(s.Tasks, func(a, b Task) int { return strings.Compare(a.Name, b.Name) })
	}
}

// serviceOn is a service on each of its networks.
func serviceOn(s *store, service *api.Service, tasks []*api.Task) map[string]Service {
	all := map[string]Service{}
	on := func(network string) Service {
		made, ok := all[network]
		if !ok {
			made = Service{ID: service.ID, Name: service.Spec.Annotations.Name}
		}
		return made
	}
	if e := service.Endpoint; e != nil {
		for _, v := range e.VirtualIPs {
			made := on(v.NetworkID)
			made.VIP = append(made.VIP, addrs(v.Addr)...)
			if n := s.networks[v.NetworkID]; n != nil && n.Spec.Ingress {
				made.Ports, made.Local = portsOf(e), service.Spec.Annotations.Labels[ingressLabel] == "local"
			}
			all[v.NetworkID] = made
		}
	}
	for _, t := range tasks {
		for _, at := range t.Networks {
			made := on(at.Network.ID)
			for _, alias := range at.Aliases {
				if !slices.Contains(made.Aliases, alias) {
					made.Aliases = append(made.Aliases, alias)
				}
			}
			made.Tasks = append(made.Tasks, Task{Name: taskName(t), Addrs: addrs(at.Addresses...), At: pathOf(s.nodes[t.NodeID])})
			all[at.Network.ID] = made
		}
	}
	return all
}

func portsOf(e *api.Endpoint) (all []Port) {
	for _, p := range e.Ports {
		if p.PublishMode == api.PublishModeIngress && p.PublishedPort != 0 {
			all = append(all, Port{strings.ToLower(p.Protocol.String()), uint16(p.PublishedPort), uint16(p.TargetPort)})
		}
	}
	return all
}
