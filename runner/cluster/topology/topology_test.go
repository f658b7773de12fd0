package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/moby/swarmkit/v2/api"
)

func attachment(network *api.Network, address string, aliases ...string) *api.NetworkAttachment {
	return &api.NetworkAttachment{Network: network, Addresses: []string{address}, Aliases: aliases}
}

func node(id, at string, state api.NodeStatus_State, in ...*api.NetworkAttachment) *api.Node {
	n := &api.Node{
		ID: id, Status: api.NodeStatus{State: state, Addr: "192.0.2.99"}, Attachments: in,
		Description: &api.NodeDescription{Engine: &api.EngineDescription{}},
	}
	if at != "" {
		Describe(n.Description, netip.MustParseAddr(at))
	}
	return n
}

func task(id, service, node string, state, desired api.TaskState, in ...*api.NetworkAttachment) *api.Task {
	return &api.Task{
		ID: id, ServiceID: service, NodeID: node, DesiredState: desired, Status: api.TaskStatus{State: state}, Networks: in,
		Annotations: api.Annotations{Name: id},
	}
}

// Who is where, and who stands behind a service, follows from the states of tasks and nodes.
func TestCompute(t *testing.T) {
	front := &api.Network{ID: "front", DriverState: &api.Driver{Name: "overlay"}}
	ingress := &api.Network{ID: "ingress", DriverState: &api.Driver{Name: "overlay"}, Spec: api.NetworkSpec{Ingress: true}}
	host := &api.Network{ID: "host", DriverState: &api.Driver{Name: "host"}}
	s := newStore()
	for _, n := range []*api.Network{front, ingress, host} {
		s.networks[n.ID] = n
	}
	for _, n := range []*api.Node{
		node("a", "192.0.2.1", api.NodeStatus_READY, attachment(front, "10.0.1.2/24"), attachment(ingress, "10.0.0.2/24")),
		node("b", "", api.NodeStatus_READY, attachment(front, "10.0.1.3/24")),
		node("gone", "192.0.2.3", api.NodeStatus_DOWN),
	} {
		s.nodes[n.ID] = n
	}
	s.services["web"] = &api.Service{
		ID: "web", Spec: api.ServiceSpec{Annotations: api.Annotations{Name: "web", Labels: map[string]string{ingressLabel: "local"}}},
		Endpoint: &api.Endpoint{
			VirtualIPs: []*api.Endpoint_VirtualIP{{NetworkID: "front", Addr: "10.0.1.4/24"}, {NetworkID: "ingress", Addr: "10.0.0.4/24"}},
			Ports: []*api.PortConfig{
				{Protocol: api.ProtocolTCP, TargetPort: 80, PublishedPort: 8080, PublishMode: api.PublishModeIngress},
				{Protocol: api.ProtocolTCP, TargetPort: 81, PublishedPort: 8081, PublishMode: api.PublishModeHost},
			},
		},
	}
	const run = api.TaskStateRunning
	both := attachment(front, "10.0.1.11/24", "www")
	both.Addresses = append(both.Addresses, "fd00::11/64")
	claim := task("claim", "", "b", run, run, attachment(front, "10.0.1.20/24"))
	claim.Spec.Runtime = &api.TaskSpec_Attachment{Attachment: &api.NetworkAttachmentSpec{
		ContainerID: ClaimName("c0ffee", "x", []string{"db", "data"}),
	}}
	for _, one := range []*api.Task{
		task("web.1", "web", "a", run, run, both, attachment(ingress, "10.0.0.11/24")),
		task("web.2", "web", "b", api.TaskStateStarting, run, attachment(front, "10.0.1.12/24")), // not yet
		task("web.3", "web", "b", run, api.TaskStateShutdown, attachment(front, "10.0.1.13/24")), // not any more
		task("web.4", "web", "gone", run, run, attachment(front, "10.0.1.14/24")),                // who knows
		task("web.5", "web", "b", api.TaskStateFailed, run, attachment(front, "10.0.1.15/24")),
		task("web.6", "web", "", api.TaskStatePending, run, attachment(front, "10.0.1.16/24")),
		claim,
	} {
		s.tasks[one.ID] = one
	}
	all := compute(s)
	if len(all) != 2 {
		t.Errorf("%d networks", len(all))
	}
	for id, want := range map[string]string{
		"front": "{front false [{10.0.1.2 192.0.2.1 a} {10.0.1.3 192.0.2.99 b} {10.0.1.11 192.0.2.1 } {10.0.1.12 192.0.2.99 } " +
			"{10.0.1.13 192.0.2.99 } {10.0.1.14 192.0.2.3 } {10.0.1.20 192.0.2.99 } {fd00::11 192.0.2.1  10.0.1.11}] " +
			"[{claim db [] [data] [{db [10.0.1.20] 192.0.2.99}] [] false} " +
			"{web web [10.0.1.4] [www] [{web.1 [10.0.1.11 fd00::11] 192.0.2.1}] [] false}]}",
		"ingress": "{ingress true [{10.0.0.2 192.0.2.1 a} {10.0.0.11 192.0.2.1 }] " +
			"[{web web [10.0.0.4] [] [{web.1 [10.0.0.11] 192.0.2.1}] [{tcp 8080 80}] true}]}",
	} {
		if got := strings.ReplaceAll(fmt.Sprint(*all[id]), " invalid IP", ""); got != want {
			t.Errorf("%s:\n%s, want\n%s", id, got, want)
		}
	}
}

// What arrives late changes nothing.
func TestStoreKeepsTheNewest(t *testing.T) {
	s := newStore()
	event := func(action api.WatchActionKind, version uint64, name string) *api.WatchMessage_Event {
		return &api.WatchMessage_Event{Action: action, Object: &api.Object{Object: &api.Object_Service{Service: &api.Service{
			ID: "s", Meta: api.Meta{Version: api.Version{Index: version}}, Spec: api.ServiceSpec{Annotations: api.Annotations{Name: name}},
		}}}}
	}
	s.apply(event(api.WatchActionKindCreate, 7, "new"))
	s.apply(event(api.WatchActionKindUpdate, 5, "old"))
	if got := s.services["s"].Spec.Annotations.Name; got != "new" {
		t.Errorf("it is %s", got)
	}
	s.apply(event(api.WatchActionKindRemove, 7, "new"))
	if len(s.services) != 0 {
		t.Error("it is still there")
	}
}

// A node is reached by the best address that is known of it.
func TestMembers(t *testing.T) {
	node := func(id string, state api.NodeStatus_State, addr, manager, path string) *api.Node {
		n := &api.Node{ID: id, Status: api.NodeStatus{State: state, Addr: addr}, Description: &api.NodeDescription{
			Hostname: "host-" + id, Engine: &api.EngineDescription{},
		}}
		if manager != "" {
			n.ManagerStatus = &api.ManagerStatus{Addr: manager}
		}
		if a, err := netip.ParseAddr(path); err == nil {
			Describe(n.Description, a)
		}
		return n
	}
	s := newStore()
	for _, n := range []*api.Node{
		node("worker", api.NodeStatus_READY, "10.0.0.3", "", "10.9.0.3"),
		node("manager", api.NodeStatus_READY, "10.9.0.1", "10.0.0.1:2377", ""),
		node("leader", api.NodeStatus_READY, "0.0.0.0", "", "10.0.0.2"),
		node("down", api.NodeStatus_DOWN, "10.0.0.4", "", ""),
		node("nowhere", api.NodeStatus_READY, "127.0.0.1", "0.0.0.0:2377", ""),
	} {
		s.nodes[n.ID] = n
	}
	want := []Member{
		{"manager", "host-manager", "10.0.0.1:7946"}, {"leader", "host-leader", "10.0.0.2:7946"},
		{"worker", "host-worker", "10.0.0.3:7946"},
	}
	if got := members(s); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}

	// Those that are drained, or kept from it by a label, build for nobody.
	s.nodes["leader"].Spec.Availability = api.NodeAvailabilityDrain
	s.nodes["worker"].Spec.Annotations.Labels = map[string]string{BuildLabel: "false"}
	if got := builders(s); len(got) != 1 || got[0].Member != want[0] || got[0].Description != s.nodes["manager"].Description {
		t.Errorf("%v build", got)
	}
}

// A worker tells of its own registries only.
func TestOwnRegistries(t *testing.T) {
	h := &Hub{members: []Member{{"a", "alfred", "10.0.0.1:7946"}, {"b", "bruce", "10.0.0.2:7946"}}}
	all := map[string]Registry{
		"10.0.0.1:5000": {HTTP: true}, "Alfred:5000": {CA: "x"}, "bruce:5000": {HTTP: true}, "docker.io": {CA: "x"},
		"10.0.0.2:5000": {CA: "x"},
	}
	want := map[string]Registry{"10.0.0.1:5000": {HTTP: true}, "Alfred:5000": {CA: "x"}}
	if got := h.ownRegistries("a", all); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := h.ownRegistries("nobody", all); len(got) != 0 {
		t.Errorf("who is no member tells of %v", got)
	}
}
