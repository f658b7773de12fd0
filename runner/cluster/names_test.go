package cluster

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gantry-build/gantry/runner/cluster/topology"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// Published ports lead to all tasks, and those of a service that stays on its node to the tasks that are here.
func TestMesh(t *testing.T) {
	here, there := addr("192.0.2.1"), addr("192.0.2.2")
	tasks := []topology.Task{
		{Name: "t.1", Addrs: []netip.Addr{addr("10.0.0.3"), addr("fd00::3")}, At: here},
		{Name: "t.2", Addrs: []netip.Addr{addr("10.0.0.4")}, At: there},
	}
	m := meshOf(topology.Network{Services: []topology.Service{
		{Name: "all", Tasks: tasks, Ports: []topology.Port{{Protocol: "tcp", Published: 8080, Target: 80}}},
		{Name: "stays", Tasks: tasks[1:], Ports: []topology.Port{{Protocol: "udp", Published: 53, Target: 5353}}, Local: true},
	}}, here)
	const want = "{ [] [10.0.0.3 fd00::3] [{tcp 8080 [10.0.0.3:80 [fd00::3]:80 10.0.0.4:80]} {udp 53 []}]}"
	if got := fmt.Sprint(*m); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A service is called by its address, or by those of its tasks; a container of this machine has said itself what it is called.
func TestNames(t *testing.T) {
	here, there := addr("192.0.2.1"), addr("192.0.2.2")
	names := namesIn(topology.Network{Services: []topology.Service{
		{ID: "w", Name: "web", VIP: []netip.Addr{addr("10.0.0.2")}, Aliases: []string{"www"}, Tasks: []topology.Task{
			{Name: "web.1", Addrs: []netip.Addr{addr("10.0.0.3")}, At: here},
			{Name: "web.2", Addrs: []netip.Addr{addr("10.0.0.4")}, At: there},
		}},
		{ID: "r", Name: "rr", Tasks: []topology.Task{{Name: "rr.1", Addrs: []netip.Addr{addr("10.0.0.5")}, At: there}}},
		{ID: "n", Name: "nobody", VIP: []netip.Addr{addr("10.0.0.6")}},
		{ID: "a", Name: "db", Aliases: []string{"data"}, Tasks: []topology.Task{
			{Name: "db", Addrs: []netip.Addr{addr("10.0.0.7")}, At: there},
		}},
		{ID: "b", Name: "app", Tasks: []topology.Task{{Name: "app", Addrs: []netip.Addr{addr("10.0.0.8")}, At: here}}},
	}}, here)
	for owner, want := range map[string]string{
		"service/w": "{[web www] [10.0.0.2]}", "tasks/w": "{[tasks.web] [10.0.0.3 10.0.0.4]}", "task/web.2": "{[web.2] [10.0.0.4]}",
		"service/r": "{[rr] [10.0.0.5]}", "tasks/r": "{[tasks.rr] [10.0.0.5]}", "task/rr.1": "{[rr.1] [10.0.0.5]}",
		"service/n": "{[nobody] [10.0.0.6]}", "task/db": "{[db data] [10.0.0.7]}",
	} {
		if got := fmt.Sprint(names[owner]); got != want {
			t.Errorf("%s: %s, want %s", owner, got, want)
		}
		delete(names, owner)
	}
	if len(names) != 0 {
		t.Errorf("and %v", names)
	}
}
