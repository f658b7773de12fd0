package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a machine's configuration says of it places services, and it tells how it is.
func TestClusterConfiguration(t *testing.T) {
	hosts := newHosts(t, 1)
	h := hosts[0]
	file := filepath.Join(t.TempDir(), "gantry.toml")
	text := "labels = [\"disk=ssd\"]\nnode-generic-resources = [\"GPU=a\", \"GPU=b\"]\nmetrics-addr = \"127.0.0.1:9323\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.run("build", "-q", "-t", "probe", probe(t))
	h.kill()
	h.env = append(h.env, "GANTRY_CONFIG="+file)
	h.start()
	h.run("swarm", "init", "--advertise-addr", h.ip)
	if out := h.run("info", "-f", "{{.Labels}} {{len .GenericResources}}"); out != "[disk=ssd] 2" {
		t.Errorf("info: %s", out)
	}
	h.service("--name", "here", "--constraint", "engine.labels.disk==ssd", "probe", "serve", ":8080", "x")
	h.service("--name", "nowhere", "--constraint", "engine.labels.disk==hdd", "probe", "serve", ":8080", "x")
	h.service("--name", "gpus", "--replicas", "3", "--generic-resource", "GPU=1", "probe", "serve", ":8080", "x")
	h.untilRuns("here", 1)
	h.untilRuns("gpus", 2)
	for service, why := range map[string]string{"nowhere": "scheduling constraints not satisfied", "gpus": "insufficient resources"} {
		eventually(t, "the reason of "+service, func() error {
			out := h.run("service", "ps", "--no-trunc", "--format", "{{.Error}}", service)
			return unless(strings.Contains(out, why), "%s", out)
		})
	}
	got := map[string]bool{}
	for _, id := range strings.Fields(h.run("ps", "-q", "--filter", "label=com.docker.swarm.service.name=gpus")) {
		env := h.run("inspect", "-f", "{{range .Config.Env}}{{println .}}{{end}}", id)
		for _, v := range []string{"a", "b"} {
			got[v] = got[v] || strings.Contains(env, "DOCKER_RESOURCE_GPU="+v)
		}
	}
	if !got["a"] || !got["b"] {
		t.Errorf("the tasks have got %v", got)
	}
	out, err := h.get("http://127.0.0.1:9323/metrics")
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		`engine_daemon_container_states_containers{state="running"} 3`, "engine_daemon_engine_info{", "swarm_manager_leader 1",
		`swarm_manager_nodes{state="ready"} 1`, "go_goroutines ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in:\n%s", want, out)
		}
	}
}

// Workers become managers: of five, two may go. One is made a worker again, the authority is replaced while services run, and one
// manager goes on alone by force.
func TestClusterManagers(t *testing.T) {
	hosts := newCluster(t, 1, 4)
	m := hosts[0]
	m.service("--name", "web", "--replicas", "5", "--container-label", "x=y", "probe", "sleep")
	m.untilRuns("web", 5)
	managers := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprint(want, " managers answer"), func() error {
			out := m.output("node", "ls", "--format", "{{.ManagerStatus}}")
			return unless(strings.Count(out, "Leader")+strings.Count(out, "Reachable") == want, "%s", out)
		})
	}
	m.run("node", "promote", "host2", "host3", "host4", "host5")
	managers(5)
	hosts[3].kill()
	hosts[4].kill()
	managers(3)
	m.run("service", "update", "-d", "-q", "--label-add", "two=gone", "web")
	m.fails([]string{"2 managers out of 5"}, "swarm", "leave") // the quorum would go
	hosts[3].start()
	hosts[4].start()
	managers(5)

	eventually(t, "host5 is to be a worker", func() error { // the node may change between the command's look and its write
		_, stderr, err := m.try("node", "demote", "host5")
		return unless(err == nil, "%s", stderr)
	})
	managers(4)
	eventually(t, "host5 is a worker", func() error {
		_, stderr, err := hosts[4].try("node", "ls")
		return unless(err != nil && strings.Contains(stderr, "not a swarm manager"), "%v: %s", err, stderr)
	})

	before := m.run("swarm", "ca")
	m.run("swarm", "ca", "--rotate", "-q")
	if out := m.run("swarm", "ca"); !strings.Contains(out, "BEGIN CERTIFICATE") || out == before {
		t.Errorf("the new authority: %s", out)
	}
	m.run("service", "scale", "-d", "web=10")
	m.untilRuns("web", 10)
	if out, _, err := m.try("cluster", "status"); err != nil || strings.Contains(out, "is being replaced") {
		t.Errorf("%v:\n%s", err, out)
	}

	for _, h := range hosts[1:] {
		h.kill()
	}
	m.run("swarm", "init", "--force-new-cluster", "--advertise-addr", m.ip)
	managers(1)
	m.run("node", "ls")
	m.run("service", "scale", "-d", "web=2")
	eventually(t, "the service is here", func() error {
		nodes := m.running("web")
		return unless(slices.Equal(nodes, []string{"host1", "host1"}), "%v", nodes)
	})
}

// Two nodes have one name, specs are too large, and the disk is full.
func TestClusterBadSurroundings(t *testing.T) {
	hosts := newHosts(t, 2)
	m, w := hosts[0], hosts[1]
	small := filepath.Join(w.root, "cluster")
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "none", small).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", small).Run() })
	w.fails([]string{"no space left on device"}, "swarm", "init", "--advertise-addr", w.ip)
	if out := w.run("info", "-f", "{{.Swarm.LocalNodeState}}"); out != "inactive" {
		t.Errorf("on a full disk it is %s", out)
	}

	m.run("swarm", "init", "--advertise-addr", m.ip)
	w.kill()
	w.name = m.name
	w.within[len(w.within)-1] = w.name
	w.start()
	w.run("swarm", "join", "--token", m.run("swarm", "join-token", "-q", "worker"), m.ip)
	eventually(t, "both are there", func() error {
		out := m.run("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
		return unless(out == "host1 Ready\nhost1 Ready", "%s", out)
	})
	m.fails([]string{"node host1 is ambiguous (2 matches found)"}, "node", "update", "--availability", "drain", "host1")

	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("x", 3<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	m.fails([]string{"config data must be larger than 0 and less than 1024000 bytes"}, "config", "create", "big", big)
	m.fails([]string{"secret data must be larger than 0 and less than 512000 bytes"}, "secret", "create", "big", big)
	var env strings.Builder
	for i := range 200 {
		fmt.Fprintf(&env, "V%d=%s\n", i, strings.Repeat("x", 50<<10))
	}
	if err := os.WriteFile(big, []byte(env.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	m.fails([]string{"too large"}, "service", "create", "-d", "-q", "--no-resolve-image", "--env-file", big, "probe")
	if out := m.run("service", "ls", "-q") + m.run("config", "ls", "-q"); out != "" {
		t.Errorf("there are %s", out)
	}
}
