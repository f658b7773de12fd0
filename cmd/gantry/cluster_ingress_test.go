package main

import (
	"fmt"
	"strings"
	"testing"
)

// reaches asks a published port of a host from this one until the service that is wanted answers.
func (h *host) reaches(at *host, port int, want string) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("port %d of %s from %s", port, at.name, h.name), func() error {
		out, err := h.get(fmt.Sprintf("http://%s:%d", at.ip, port))
		return unless(err == nil && strings.HasPrefix(out, want+" "), "%v: %q, want %s", err, out, want)
	})
}

// A service may keep its published port to the nodes that run it, and see its clients as they are; and the network by which ports
// are published may be replaced by one of other addresses.
func TestClusterIngress(t *testing.T) {
	hosts := newCluster(t, 1, 1)
	m, w := hosts[0], hosts[1]
	m.service("--name", "everywhere", "-p", "8080:80", "--constraint", "node.hostname==host2", "probe", "serve", ":80", "everywhere")
	m.service("--name", "here", "--label", "com.gantry.ingress=local", "-p", "8081:80", "--constraint", "node.hostname==host2",
		"probe", "serve", ":80", "here")
	m.untilRuns("everywhere", 1)
	m.untilRuns("here", 1)
	m.reaches(m, 8080, "everywhere")
	m.reaches(w, 8081, "here")
	if out, err := m.get("http://" + m.ip + ":8081"); err == nil {
		t.Errorf("a port that is to stay on its node answers on another one: %s", out)
	}

	remove := func() error {
		cmd := m.command("network", "rm", "ingress")
		cmd.Stdin = strings.NewReader("y\n") // it asks back
		out, err := cmd.CombinedOutput()
		return unless(err == nil, "%s", out)
	}
	if err := remove(); err == nil || !strings.Contains(err.Error(), "depends on it") {
		t.Errorf("the ingress network is removed while a service needs it: %v", err)
	}
	m.run("service", "rm", "everywhere", "here")
	eventually(t, "nothing holds the ingress network", remove)
	m.fails([]string{"ingress"}, "service", "create", "-d", "-q", "--no-resolve-image", "-p", "8080:80", "probe")
	m.run("network", "create", "-d", "overlay", "--ingress", "--subnet", "10.88.0.0/24", "mine")
	m.fails([]string{"ingress network", "already present"}, "network", "create", "-d", "overlay", "--ingress", "second")
	m.service("--name", "again", "-p", "8080:80", "--constraint", "node.hostname==host2", "probe", "serve", ":80", "again")
	m.untilRuns("again", 1)
	m.reaches(m, 8080, "again")
	if out := m.run("service", "inspect", "-f", "{{(index .Endpoint.VirtualIPs 0).Addr}}", "again"); !strings.HasPrefix(out, "10.88.0.") {
		t.Errorf("on the new ingress network the service is at %s", out)
	}
}

// Addresses that are used up are told by the tasks that wait for one, and go on once one is free.
func TestClusterPoolsEnd(t *testing.T) {
	m := newHosts(t, 1)[0]
	m.run("build", "-q", "-t", "probe", probe(t))
	m.fails([]string{"10.20.0.0/24"}, "swarm", "init", "--advertise-addr", m.ip, "--default-addr-pool", "10.20.0.0/24",
		"--default-addr-pool-mask-length", "16")
	m.run("swarm", "init", "--advertise-addr", m.ip, "--default-addr-pool", "10.20.0.0/24", "--default-addr-pool-mask-length", "25")
	m.run("network", "create", "-d", "overlay", "one") // the other half of the pool is the ingress network's
	m.fails([]string{"10.20.0.0/24", "--subnet"}, "network", "create", "-d", "overlay", "two")
	m.run("network", "create", "-d", "overlay", "--subnet", "10.9.0.0/29", "small")
	m.service("--name", "web", "--endpoint-mode", "dnsrr", "--network", "small", "--replicas", "9", "probe", "sleep")
	eventually(t, "the reason of the tasks that wait", func() error {
		out := m.run("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "web")
		return unless(strings.Contains(out, "10.9.0.0/29"), "%s", out)
	})
	if n := len(m.running("web")); n > 5 {
		t.Errorf("%d tasks have one of five addresses", n)
	}
	m.run("service", "scale", "-d", "web=2")
	m.untilRuns("web", 2)
	m.run("service", "scale", "-d", "web=4")
	m.untilRuns("web", 4)
}
