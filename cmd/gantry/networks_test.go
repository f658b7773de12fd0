package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The unmodified docker CLI makes networks in which containers of both architectures find each other by name, on IPv4
// and IPv6, and are apart from others.
func TestNetworksByDocker(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "--platform", "linux/amd64,linux/arm/v7", "-t", "probe", probe(t))
	c := newClient(t, g)
	docker, expect := c.docker, c.expect
	const arm = "linux/arm/v7"
	docker("network", "create", "--subnet", "10.99.1.0/24", "--gateway", "10.99.1.254", "--ipv6", "--subnet", "fd99:1::/64", "app")
	docker("network", "create", "--internal", "--label", "of=test", "back")
	expect("app bridge\nback bridge", "network", "ls", "-f", "type=custom", "--format", "{{.Name}} {{.Driver}}")
	docker("run", "-d", "--name", "web", "--network", "app", "--network-alias", "www", "--ip", "10.99.1.7", "-p", "127.0.0.1::80",
		"probe", "serve", ":80", "web")
	docker("run", "-d", "--name", "db", "--platform", arm, "--network", "back", "--network", "name=app,alias=data", "probe",
		"serve", ":80", "db")
	docker("run", "-d", "--name", "lone", "probe", "serve", ":80", "lone")

	expect("10.99.1.7 fd99:1::2", "run", "--rm", "--network", "app", "probe", "ask", "web")
	expect("10.99.1.7 fd99:1::2", "run", "--rm", "--network", "app", "--platform", arm, "probe", "ask", "www")
	expect("web amd64", "run", "--rm", "--network", "app", "--platform", arm, "probe", "get", "http://web/")
	expect("web amd64", "run", "--rm", "--network", "app", "--platform", arm, "probe", "get", "http://[fd99:1::2]/")
	expect("db arm", "run", "--rm", "--network", "app", "probe", "get", "http://data.app/")
	expect("db arm", "run", "--rm", "--network", "back", "probe", "get", "http://db/")
	expect("web amd64", "exec", "db", "/probe", "get", "http://web/")
	expect("web amd64", "run", "--rm", "--platform", arm, "--network", "container:web", "probe", "get", "http://127.0.0.1/")
	expect("lone amd64", "run", "--rm", "--link", "lone:other", "probe", "get", "http://other/")
	for what, args := range map[string][]string{
		"a name of another network":     {"run", "--rm", "--network", "back", "probe", "ask", "web"},
		"an address of another":         {"run", "--rm", "--network", "back", "probe", "get", "http://10.99.1.7/"},
		"the default network's names":   {"run", "--rm", "probe", "ask", "lone"},
		"a network that does not exist": {"run", "--rm", "--network", "lost", "probe"},
	} {
		if out := c.fails("docker", args...); out == "" {
			t.Errorf("%s: no word of why", what)
		}
	}
	expect("web amd64", "run", "--rm", "--network", "host", "probe", "get", "http://"+docker("port", "web", "80"))

	docker("network", "connect", "--alias", "late", "app", "lone")
	expect("lone amd64", "exec", "web", "/probe", "get", "http://late/")
	expect("web amd64", "exec", "lone", "/probe", "get", "http://web/")
	docker("rename", "lone", "renamed")
	expect("lone amd64", "exec", "db", "/probe", "get", "http://renamed/")
	docker("network", "disconnect", "app", "renamed")
	c.fails("docker", "exec", "web", "/probe", "ask", "late")
	expect("app back", "inspect", "-f", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}", "db")

	// The next daemon knows all names, and the containers that run find them.
	kill(t, g.status().PID)
	g.run("info") // starts it
	expect("web amd64", "exec", "db", "/probe", "get", "http://www/")
	expect("db arm", "exec", "web", "/probe", "get", "http://data/")
	if out := c.fails("docker", "network", "rm", "app"); !strings.Contains(out, "network app has active endpoints (name:") {
		t.Errorf("%s", out)
	}
	docker("rm", "-f", "web", "db", "renamed")
	if got := docker("network", "prune", "-f"); got != "Deleted Networks:\napp\nback" {
		t.Errorf("%q", got)
	}
	expect("", "network", "ls", "-q", "-f", "type=custom")
}

// Kills of the daemon while containers are connected and disconnected leave nothing: no interface, no element, no
// address in use.
func TestKilledConnects(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("network", "create", "--subnet", "10.99.2.0/28", "app") // 13 addresses: one that is lost is missed
	g.run("run", "-d", "--name", "stays", "--network", "app", "probe", "serve", ":80", "stays")
	var names []string
	for i := range 4 {
		names = append(names, fmt.Sprint("cc", i))
		g.run("run", "-d", "--name", names[i], "-p", fmt.Sprint(18080+i, ":80"), "probe", "serve", ":80", "x")
	}
	for round := range 10 {
		done := make(chan bool)
		for _, n := range names {
			go func() {
				for range 5 {
					_ = g.output("network", "connect", "app", n)
					_ = g.output("network", "disconnect", "app", n)
				}
				done <- true
			}()
		}
		if round%2 == 0 {
			kill(t, g.status().PID)
		}
		for range names {
			<-done
		}
	}
	kill(t, g.status().PID)
	for _, n := range names {
		if in := g.run("inspect", "-f", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}", n); strings.Contains(in, "app") {
			g.run("network", "disconnect", "app", n)
		}
	}
	if got := g.run("network", "inspect", "-f", "{{len .Containers}} {{range .Status.IPAM.Subnets}}{{.IPsInUse}}{{end}}",
		"app"); got != "1 4" {
		t.Errorf("containers, and addresses in use beside the network's own three: %s", got)
	}
	if got := g.run("exec", names[0], "/probe", "get", "http://127.0.0.1/"); got != "x amd64" {
		t.Errorf("%s", got)
	}
	for _, n := range append(names, "stays") {
		g.run("rm", "-f", n)
	}
	g.run("network", "rm", "app")
}

// A reset leaves nothing: no container, network, table, rule in another's chain, mount or file.
func TestSystemReset(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("network", "create", "app")
	g.run("volume", "create", "data")
	g.run("run", "-d", "--network", "app", "-v", "data:/d", "-p", "80", "probe", "sleep")
	g.run("run", "-d", "probe", "sleep")
	g.fails([]string{"nothing was removed"}, "system", "reset")
	g.run("system", "reset", "--force")
	if left := devicesOf(t, g.root); len(left) > 0 {
		t.Errorf("left on the host: %v", left)
	}
	if _, err := os.Stat(g.root); err == nil {
		t.Error("the data root is left")
	}
}
