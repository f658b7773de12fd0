package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
)

func fresh(t *testing.T, c *networkallocator.Config) *allocator {
	t.Helper()
	a, err := Provider{}.NewAllocator(c)
	if err != nil {
		t.Fatal(err)
	}
	return a.(*allocator)
}

func overlayNetwork(t *testing.T, a *allocator, id string, configs ...*api.IPAMConfig) *api.Network {
	t.Helper()
	n := &api.Network{ID: id}
	if len(configs) > 0 {
		n.Spec.IPAM = &api.IPAMOptions{Configs: configs}
	}
	if err := a.Allocate(n); err != nil {
		t.Fatal(err)
	}
	return n
}

func attached(id string, networks ...*api.Network) *api.Task {
	t := &api.Task{ID: id}
	for _, n := range networks {
		t.Networks = append(t.Networks, &api.NetworkAttachment{Network: n})
	}
	return t
}

// A new leader is told what the one before has given, in any order, and gives none of it again.
func TestNewLeader(t *testing.T) {
	first := fresh(t, nil)
	n := overlayNetwork(t, first, "n")
	s := &api.Service{ID: "s", Spec: api.ServiceSpec{Task: api.TaskSpec{Networks: []*api.NetworkAttachmentConfig{{Target: "n"}}}}}
	if first.IsServiceAllocated(s) {
		t.Error("a service without an address is taken for one that has all")
	}
	if err := first.AllocateService(s); err != nil {
		t.Fatal(err)
	}
	var tasks []*api.Task
	for i := range 20 {
		task := attached(fmt.Sprint("t", i), n)
		if err := first.AllocateTask(task); err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, task)
	}
	node := &api.NetworkAttachment{Network: n}
	if err := first.AllocateAttachment(&api.Node{ID: "node"}, node); err != nil {
		t.Fatal(err)
	}

	second := fresh(t, nil)
	number := n.DriverState.Options[numberOption]
	if err := second.Allocate(n); err != nil || n.DriverState.Options[numberOption] != number {
		t.Fatalf("the network has another number now: %v", err)
	}
	seen := map[string]bool{}
	note := func(addr string) {
		t.Helper()
		if seen[addr] {
			t.Errorf("%s is given twice", addr)
		}
		seen[addr] = true
	}
	if second.IsServiceAllocated(s) {
		t.Error("a leader believes that it knows a service's address")
	}
	vip := s.Endpoint.VirtualIPs[0].Addr
	if err := second.AllocateService(s); err != nil || s.Endpoint.VirtualIPs[0].Addr != vip {
		t.Fatalf("the service has moved from %s to %v: %v", vip, s.Endpoint.VirtualIPs, err)
	}
	note(vip)
	for _, task := range slices.Backward(tasks) { // else the next free address would be the right one by chance
		had := task.Networks[0].Addresses[0]
		if err := second.AllocateTask(task); err != nil || task.Networks[0].Addresses[0] != had {
			t.Fatalf("a task has moved from %s to %v: %v", had, task.Networks[0].Addresses, err)
		}
		note(had)
	}
	if err := second.AllocateAttachment(&api.Node{ID: "node"}, node); err != nil {
		t.Fatal(err)
	}
	note(node.Addresses[0])
	for i := range 20 {
		task := attached(fmt.Sprint("new", i), n)
		if err := second.AllocateTask(task); err != nil {
			t.Fatal(err)
		}
		note(task.Networks[0].Addresses[0])
	}
}

// What ends gives its addresses back, and what does not fit fails whole.
func TestFullNetwork(t *testing.T) {
	a := fresh(t, nil)
	small := overlayNetwork(t, a, "small", &api.IPAMConfig{Subnet: "10.9.0.0/29"})
	wide := overlayNetwork(t, a, "wide")
	var tasks []*api.Task
	for {
		task := attached(fmt.Sprint("t", len(tasks)), wide, small)
		if err := a.AllocateTask(task); err != nil {
			break
		}
		tasks = append(tasks, task)
	}
	if len(tasks) != 5 { // of eight: network, broadcast, gateway
		t.Fatalf("%d tasks fit", len(tasks))
	}
	if n := a.networks["wide"].pools[0].InUse(); n != 5 {
		t.Errorf("the task that did not fit has left %d addresses", n-5)
	}
	if err := a.DeallocateTask(tasks[0]); err != nil || tasks[0].Networks[0].Addresses != nil {
		t.Error(err, tasks[0].Networks[0].Addresses)
	}
	if err := a.AllocateTask(attached("last", wide, small)); err != nil {
		t.Error(err)
	}
}

func TestSubnets(t *testing.T) {
	a := fresh(t, &networkallocator.Config{DefaultAddrPool: []string{"10.20.0.0/16", "10.20.0.0/16"}, SubnetSize: 24})
	first, second := overlayNetwork(t, a, "a"), overlayNetwork(t, a, "b")
	for want, n := range map[string]*api.Network{"10.20.0.0/24": first, "10.20.1.0/24": second} {
		if got := n.IPAM.Configs[0].Subnet; got != want {
			t.Errorf("subnet %s, want %s", got, want)
		}
	}
	dual := overlayNetwork(t, a, "dual", &api.IPAMConfig{}, &api.IPAMConfig{Subnet: "fd00:9::/64"})
	task := attached("t", dual)
	if err := a.AllocateTask(task); err != nil || len(task.Networks[0].Addresses) != 2 {
		t.Fatalf("%v: %v", task.Networks[0].Addresses, err)
	}
	if p := netip.MustParsePrefix(task.Networks[0].Addresses[1]); !p.Addr().Is6() {
		t.Errorf("the second address is %s", p)
	}
	if err := a.Allocate(&api.Network{ID: "c", Spec: api.NetworkSpec{IPAM: &api.IPAMOptions{
		Configs: []*api.IPAMConfig{{Subnet: "10.20.1.128/25"}}}}}); err == nil {
		t.Error("two networks have the same addresses")
	}
	if err := a.Deallocate(second); err != nil {
		t.Fatal(err)
	}
	if got := overlayNetwork(t, a, "d").IPAM.Configs[0].Subnet; got != "10.20.1.0/24" {
		t.Errorf("a subnet that is free again is not taken: %s", got)
	}
	for _, bad := range []networkallocator.Config{
		{DefaultAddrPool: []string{"x"}}, {DefaultAddrPool: []string{"10.0.0.0/8", "10.1.0.0/16"}},
		{DefaultAddrPool: []string{"10.0.0.0/24"}, SubnetSize: 16},
	} {
		if _, err := (Provider{}).NewAllocator(&bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// Networks that each node has for itself need nothing, nor do services that are found by their tasks.
func TestNothingToGive(t *testing.T) {
	a := fresh(t, nil)
	n := &api.Network{ID: "bridge", Spec: api.NetworkSpec{DriverConfig: &api.Driver{Name: "bridge"}}}
	if err := a.Allocate(n); err != nil || !a.IsAllocated(n) || n.DriverState.Name != "bridge" {
		t.Error(err, n.DriverState)
	}
	task := attached("t", n)
	if err := a.AllocateTask(task); err != nil || task.Networks[0].Addresses != nil {
		t.Error(err, task.Networks[0].Addresses)
	}
	overlayNetwork(t, a, "o")
	for _, spec := range []api.ServiceSpec{
		{Task: api.TaskSpec{Networks: []*api.NetworkAttachmentConfig{{Target: "bridge"}}}},
		{Task: api.TaskSpec{Networks: []*api.NetworkAttachmentConfig{{Target: "o"}}}, Endpoint: &api.EndpointSpec{
			Mode: api.ResolutionModeDNSRoundRobin}},
		{},
	} {
		s := &api.Service{ID: "s", Spec: spec}
		if !a.IsServiceAllocated(s) {
			t.Errorf("%+v wants an address", spec)
		}
		if err := a.AllocateService(s); err != nil || len(s.Endpoint.VirtualIPs) > 0 {
			t.Error(err, s.Endpoint)
		}
	}
	if bare := attached("bare"); a.AllocateTask(bare) != nil || a.IsTaskAllocated(bare) {
		t.Error("a task without networks is taken for one that has all, and gets no ports")
	}
	for _, driver := range []string{"overlay", "bridge", "host", ""} {
		if err := (Provider{}).ValidateNetworkDriver(&api.Driver{Name: driver}); err != nil {
			t.Error(err)
		}
	}
	if (Provider{}).ValidateNetworkDriver(&api.Driver{Name: "weave"}) == nil || (Provider{}).ValidateIngressNetworkDriver(&api.Driver{
		Name: "bridge"}) == nil || (Provider{}).ValidateIPAMDriver(&api.Driver{Name: "x"}) == nil {
		t.Error("drivers that are not there are taken")
	}
}

// A service that is updated keeps the addresses that it still wants, and gives the others back.
func TestServiceMoves(t *testing.T) {
	a := fresh(t, nil)
	for _, id := range []string{"a", "b"} {
		overlayNetwork(t, a, id)
	}
	s := &api.Service{ID: "s"}
	on := func(ids ...string) {
		t.Helper()
		s.Spec.Task.Networks = nil
		for _, id := range ids {
			s.Spec.Task.Networks = append(s.Spec.Task.Networks, &api.NetworkAttachmentConfig{Target: id})
		}
		if err := a.AllocateService(s); err != nil || !a.IsServiceAllocated(s) || len(s.Endpoint.VirtualIPs) != len(ids) {
			t.Fatalf("on %v: %v, %+v", ids, err, s.Endpoint)
		}
	}
	on("a")
	first := s.Endpoint.VirtualIPs[0].Addr
	on("a", "b")
	if s.Endpoint.VirtualIPs[0].Addr != first {
		t.Error("it has moved")
	}
	on("b")
	if n := a.networks["a"].pools[0].InUse(); n != 0 {
		t.Errorf("%d addresses are left", n)
	}
	if err := a.DeallocateService(s); err != nil || a.networks["b"].pools[0].InUse() != 0 {
		t.Error(err, "or an address is left")
	}
	// Published ports come in by a network that SwarmKit names, and the service has not asked for.
	overlayNetwork(t, a, "ingress")
	s = &api.Service{ID: "p", Spec: api.ServiceSpec{Endpoint: &api.EndpointSpec{Ports: []*api.PortConfig{{TargetPort: 80}}}},
		Endpoint: &api.Endpoint{VirtualIPs: []*api.Endpoint_VirtualIP{{NetworkID: "ingress"}}}}
	if err := a.AllocateService(s); err != nil || len(s.Endpoint.VirtualIPs) != 1 || s.Endpoint.VirtualIPs[0].Addr == "" {
		t.Errorf("%v: %+v", err, s.Endpoint)
	}
}
