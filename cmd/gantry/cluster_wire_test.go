package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// ip runs ip(8) in the host's network namespace.
func (h *host) ipCommand(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("ip", append([]string{"-n", h.netns}, args...)...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// devices are the host's, but for those of the container that asks nobody: the bridge and its own.
func (h *host) devices() (names []string) {
	for line := range strings.Lines(h.ipCommand("-br", "link")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// comeAndGo has tasks of a service come and go, and the daemon of a host be killed among them.
func comeAndGo(m, w *host, service string) {
	m.t.Helper()
	m.run("service", "update", "-d", "-q", "--constraint-rm", "node.hostname==host1", service)
	for i := range faults(4, 17) {
		m.run("service", "scale", "-d", service+"=12")
		m.untilRuns(service, 12)
		if i == 2 {
			w.kill()
			w.start()
		}
		m.run("service", "scale", "-d", service+"=1")
		m.untilRuns(service, 1)
	}
}

// A link that was cut heals, also for those who could not be told meanwhile; containers and networks that come and go, and a daemon
// that is killed among them, leave nothing.
func TestClusterNetworkFaults(t *testing.T) {
	hosts := newCluster(t, 1, 1)
	m, w := hosts[0], hosts[1]
	m.service("--name", "first", "-p", "8080:80", "--mode", "global", "probe", "serve", ":80", "x") // so that the ingress network is there
	m.untilRuns("first", 2)
	before := w.devices()

	m.run("network", "create", "-d", "overlay", "n")
	m.service("--name", "web", "--network", "n", "--constraint", "node.hostname==host2", "probe", "serve", ":80", "web")
	m.service("--name", "client", "--network", "n", "--constraint", "node.hostname==host1", "probe", "sleep")
	m.untilRuns("web", 1)
	m.untilRuns("client", 1)
	ask := func() error {
		_, err := m.inTask("client", "get", "http://web")
		return err
	}
	eventually(t, "the service answers", ask)
	for _, h := range hosts {
		eventually(t, "all is well on "+h.name, func() error {
			out, _, err := h.try("cluster", "doctor")
			return unless(err == nil && strings.Contains(out, "by packets of up to 1450 bytes"), "%v: %s", err, out)
		})
	}
	w.cut(true)
	out, _, err := w.try("cluster", "doctor")
	for _, want := range []string{"open TCP 2377", "open TCP 7946", "open UDP 4789"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("cut off, the doctor says (%v) not %q:\n%s", err, want, out)
		}
	}
	m.service("--name", "news", "--network", "n", "--constraint", "node.hostname==host1", "probe", "serve", ":80", "news")
	m.untilRuns("news", 1)
	w.cut(false)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := ask()
		if err == nil {
			_, err = w.inTask("web", "get", "http://news")
		}
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Errorf("5 s after the cut: %v", err)
			break
		}
	}

	comeAndGo(m, w, "client")
	m.run("service", "rm", "web", "client", "news")
	eventually(t, "the network goes", func() error {
		_, stderr, err := m.try("network", "rm", "n")
		return unless(err == nil, "%s", stderr)
	})
	eventually(t, "host2 is as before", func() error {
		after := w.devices()
		return unless(slices.Equal(before, after), "%v, and it was %v", after, before)
	})
	if out := w.output("network", "ls", "-q", "--filter", "name=n$"); out != "" {
		t.Errorf("host2 still has %s", out)
	}
}

// What can't be is said, where it was asked or by the tasks that wait.
func TestClusterNetworkBadInput(t *testing.T) {
	hosts := newHosts(t, 1)
	m := hosts[0]
	m.run("build", "-q", "-t", "probe", probe(t))
	m.fails([]string{"not a swarm manager"}, "network", "create", "-d", "overlay", "n")
	m.run("swarm", "init", "--advertise-addr", m.ip)
	m.run("network", "create", "-d", "overlay", "--subnet", "10.9.0.0/24", "n")
	m.fails([]string{"already exists"}, "network", "create", "-d", "overlay", "n")
	m.fails([]string{"Pool overlaps", "network n"}, "network", "create", "-d", "overlay", "--subnet", "10.9.0.128/25", "twice")
	m.fails([]string{"encrypted"}, "network", "create", "-d", "overlay", "--opt", "encrypted", "secret")
	const bridgeOnly = "com.docker.network.bridge.name=x"
	m.fails([]string{"unsupported option", "bridge.name"}, "network", "create", "-d", "overlay", "--opt", bridgeOnly, "x")
	m.fails([]string{"pre-defined"}, "network", "create", "-d", "overlay", "host")
	m.fails([]string{"network n not manually attachable"}, "run", "--rm", "--network", "n", "probe", "say", "x")
	m.fails([]string{"network nowhere not found"}, "service", "create", "-d", "--network", "nowhere", "probe")

	m.service("--name", "web", "-p", "8080:80", "--network", "n", "probe", "serve", ":80", "x")
	m.fails([]string{"8080", "web"}, "service", "create", "-d", "-q", "--no-resolve-image", "-p", "8080:81", "probe")
	m.untilRuns("web", 1)
	if _, stderr, err := m.try("network", "rm", "n"); err == nil || !strings.Contains(stderr, "in use") {
		t.Errorf("a network in use is removed: %v, %s", err, stderr)
	}
	out := m.run("network", "inspect", "-f", "{{.Scope}} {{.Driver}} {{(index .IPAM.Config 0).Subnet}}", "n")
	if out != "swarm overlay 10.9.0.0/24" {
		t.Errorf("inspect: %s", out)
	}

	why := func(service string, words ...string) {
		t.Helper()
		eventually(t, "the reason of "+service, func() error {
			out := m.run("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", service)
			for _, w := range words {
				if !strings.Contains(out, w) {
					return fmt.Errorf("%q is not in: %s", w, out)
				}
			}
			return nil
		})
	}
	m.run("network", "create", "-d", "overlay", "--subnet", "10.77.0.0/16", "lan")
	m.service("--name", "overlaps", "--network", "lan", "--restart-condition", "none", "probe", "sleep")
	why("overlaps", "10.77.0.0/24", "--subnet", "--default-addr-pool")
	m.run("network", "create", "-d", "overlay", "--opt", "com.docker.network.driver.mtu=9000", "jumbo")
	m.service("--name", "large", "--network", "jumbo", "--restart-condition", "none", "probe", "sleep")
	why("large", "MTU 9000 is more than 1450")
	m.ipCommand("link", "set", "eth0", "mtu", "1280")
	m.run("network", "create", "-d", "overlay", "--ipv6", "six")
	m.service("--name", "narrow", "--network", "six", "--restart-condition", "none", "probe", "sleep")
	why("narrow", "IPv6 wants an MTU of 1280")
	m.run("network", "create", "-d", "overlay", "narrow4")
	m.service("--name", "fits", "--network", "narrow4", "probe", "sleep")
	m.untilRuns("fits", 1)
}

// Plain containers on two nodes are in one attachable network: they find each other and services by their names, and leave it.
func TestClusterAttachableNetwork(t *testing.T) {
	hosts := newCluster(t, 1, 1)
	m, w := hosts[0], hosts[1]
	m.run("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.9.0.0/24", "n")
	m.service("--name", "web", "--network", "n", "-p", "8080:80", "--constraint", "node.hostname==host1",
		"probe", "serve", ":80", "service")
	m.run("run", "-d", "--name", "db", "--network", "n", "--network-alias", "data", "--ip", "10.9.0.77", "probe", "serve", ":80", "db")
	w.run("run", "-d", "--name", "app", "--network", "n", "probe", "serve", ":80", "app")
	for _, c := range []struct {
		from       *host
		name, want string
	}{{w, "db", "db"}, {w, "data", "db"}, {w, "web", "service"}, {m, "app", "app"}, {w, "app", "app"}, {m, "web", "service"}} {
		container := map[*host]string{m: "db", w: "app"}[c.from]
		eventually(t, c.name+" answers on "+c.from.name, func() error {
			out, stderr, err := c.from.try("exec", container, "/probe", "get", "http://"+c.name)
			return unless(err == nil && strings.HasPrefix(out, c.want+" "), "%v: %s%s", err, out, stderr)
		})
	}
	if out := w.run("exec", "app", "/probe", "ask", "data"); out != "10.9.0.77" {
		t.Errorf("data is at %s", out)
	}
	w.run("run", "-d", "--name", "late", "probe", "sleep")
	w.run("network", "connect", "--alias", "later", "n", "late")
	eventually(t, "the one that came later", func() error {
		out, stderr, err := m.try("exec", "db", "/probe", "ask", "later")
		return unless(err == nil && strings.HasPrefix(out, "10.9.0."), "%v: %s%s", err, out, stderr)
	})
	w.run("network", "disconnect", "n", "late")
	w.kill()
	w.start()
	w.run("rm", "-f", "app", "late")
	w.run("daemon", "stop") // which takes all devices away, as nothing runs
	w.start()
	eventually(t, "the port on a node without containers", func() error {
		out, err := w.get("http://" + w.ip + ":8080")
		return unless(err == nil && strings.HasPrefix(out, "service "), "%v: %s", err, out)
	})
	m.run("rm", "-f", "db")
	m.run("service", "rm", "web")
	eventually(t, "the network goes", func() error {
		_, stderr, err := m.try("network", "rm", "n")
		return unless(err == nil, "%s", stderr)
	})
}
