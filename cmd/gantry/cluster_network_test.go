package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// inTask runs the probe in a container of a service that is on this host.
func (h *host) inTask(service string, args ...string) (string, error) {
	ids := strings.Fields(h.output("ps", "-q", "--filter", "label=com.docker.swarm.service.name="+service))
	if len(ids) == 0 {
		return "", fmt.Errorf("%s has no task on %s", service, h.name)
	}
	out, stderr, err := h.try(append([]string{"exec", ids[0], "/probe"}, args...)...)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr)
	}
	return strings.TrimSpace(out), err
}

// get asks an address from this machine.
func (h *host) get(url string) (string, error) {
	out, err := exec.Command("ip", "netns", "exec", h.netns, filepath.Join(probe(h.t), runtime.GOARCH), "get", url).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// reachesPorts asks port 8080 of each host from this one, by IPv4 and IPv6: it leads to all tasks in turn.
func (h *host) reachesPorts(hosts []*host) {
	h.t.Helper()
	for i, to := range hosts {
		six := fmt.Sprintf("http://[fd77::%d]:8080", i+1)
		if out, err := h.get(six); err != nil {
			h.t.Errorf("from %s to %s: %v: %s", h.name, six, err, out)
		}
		got := map[string]int{}
		for range 6 {
			out, err := h.get("http://" + to.ip + ":8080")
			if err != nil {
				h.t.Errorf("from %s by port 8080 of %s: %v", h.name, to.name, err)
			}
			got[strings.Fields(out + " ?")[0]]++
		}
		if got["host1"] != 2 || got["host2"] != 2 || got["host3"] != 2 {
			h.t.Errorf("port 8080 of %s, asked from %s, leads to %v", to.name, h.name, got)
		}
	}
}

// Tasks on all nodes reach services by name, by virtual address and by all of their addresses, and each other.
func TestClusterNetworks(t *testing.T) {
	hosts := newCluster(t, 1, 2)
	m := hosts[0]
	for i, h := range hosts {
		h.ipCommand("addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", "eth0", "nodad")
	}
	m.run("network", "create", "-d", "overlay", "--ipv6", "front")
	m.service("--name", "web", "--replicas", "3", "--network", "front", "-p", "8080:80", "--env", "AT={{.Node.Hostname}}",
		"probe", "serve", ":80", "$AT")
	m.service("--name", "rr", "--replicas", "3", "--network", "front", "--endpoint-mode", "dnsrr", "probe", "serve", ":80", "rr")
	m.service("--name", "client", "--mode", "global", "--network", "front", "probe", "sleep")
	m.untilRuns("web", 3)
	m.untilRuns("rr", 3)
	m.untilRuns("client", 3)
	out := m.run("network", "inspect", "--verbose", "-f", "{{range .Peers}}{{.Name}} {{end}}{{len .Services.web.Tasks}}", "front")
	if words := strings.Fields(out); len(words) != 4 || words[3] != "3" {
		t.Errorf("network inspect says %s", out)
	}
	vip, _, _ := strings.Cut(m.run("service", "inspect", "-f", "{{(index .Endpoint.VirtualIPs 0).Addr}}", "web"), "/")
	for _, h := range hosts {
		eventually(t, "names on "+h.name, func() error {
			web, err := h.inTask("client", "ask", "web")
			if err != nil {
				return err
			}
			tasks, err := h.inTask("client", "ask", "tasks.web")
			if err != nil {
				return err
			}
			rr, err := h.inTask("client", "ask", "rr")
			return unless(err == nil && web == vip && len(strings.Fields(tasks)) == 6 && len(strings.Fields(rr)) == 6,
				"%s, want %s; %s; %s; %v", web, vip, tasks, rr, err)
		})
		if tasks, _ := h.inTask("client", "ask", "tasks.web"); !strings.Contains(tasks, ":") {
			t.Errorf("on a network with IPv6 the tasks are at %s", tasks)
		}
		tasks, _ := h.inTask("client", "ask", "tasks.web")
		for _, addr := range strings.Fields(tasks) {
			if _, err := h.inTask("client", "get", "http://"+net.JoinHostPort(addr, "80")); err != nil {
				t.Errorf("from %s to %s: %v", h.name, addr, err)
			}
		}
		var answers []string
		for range 6 {
			out, err := h.inTask("client", "get", "http://web")
			if err != nil {
				t.Errorf("from %s to web: %v", h.name, err)
			}
			answers = append(answers, strings.Fields(out + " ?")[0])
		}
		if slices.Sort(answers); !slices.Equal(answers, []string{"host1", "host1", "host2", "host2", "host3", "host3"}) {
			t.Errorf("web answers %s from %v", h.name, answers)
		}
		h.reachesPorts(hosts)
	}
}

const checkedStack = `
services:
  web:
    image: probe
    command: [serve, ":80", "$$HOSTNAME"]
    ports: ["8080:80"]
    stop_grace_period: 10s
    healthcheck: {test: [CMD, /probe, get, "http://127.0.0.1"], interval: 300ms, start_period: 5s}
    deploy: {replicas: 3, update_config: {parallelism: 1}}
`

// A client that never stops asking, by many connections, sees no failed request while a service is updated, start-first with a health
// check and stop-first, while a node is drained, and while a daemon is killed and comes back.
func TestClusterDropsNobody(t *testing.T) {
	hosts := newCluster(t, 1, 2)
	m, client, other := hosts[0], hosts[1], hosts[2]
	file := filepath.Join(t.TempDir(), "stack.yaml")
	if err := os.WriteFile(file, []byte(checkedStack), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("stack", "deploy", "-d", "--resolve-image", "never", "-c", file, "s")
	m.untilRuns("s_web", 3)
	eventually(t, "the port answers", func() error {
		_, err := client.get("http://" + client.ip + ":8080")
		return err
	})
	client.run("run", "-d", "--name", "hammer", "--network", "host", "probe", "hammer", "http://"+client.ip+":8080", "50")
	updated := func(how string, args ...string) {
		t.Helper()
		m.run(append(append([]string{"service", "update", "-d", "-q", "--label-add", "now=" + how}, args...), "--force", "s_web")...)
		eventually(t, how, func() error {
			out := m.run("service", "inspect", "-f", "{{.UpdateStatus.State}} {{.Spec.Labels.now}}", "s_web")
			return unless(out == "completed "+how, "%s", out)
		})
	}
	updated("start-first", "--update-order", "start-first")
	updated("stop-first", "--update-order", "stop-first")
	m.run("node", "update", "--availability", "drain", "host3")
	eventually(t, "the drain", func() error {
		nodes := m.running("s_web")
		return unless(len(nodes) == 3 && !slices.Contains(nodes, "host3"), "%v", nodes)
	})
	m.run("node", "update", "--availability", "active", "host3")
	other.kill()
	other.start()
	client.kill()
	client.start()
	m.untilRuns("s_web", 3)
	client.run("stop", "hammer")
	out := client.run("logs", "hammer")
	if !strings.Contains(out, "failed 0") {
		t.Errorf("the client has seen:\n%s", out)
	}
	t.Log(out)
}
