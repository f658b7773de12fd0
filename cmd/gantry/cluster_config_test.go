package main

import (
	"os"
	"path/filepath"
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
	out := h.run("run", "--rm", "--network", "host", "probe", "get", "http://127.0.0.1:9323/metrics")
	for _, want := range []string{
		`engine_daemon_container_states_containers{state="running"} 4`, "engine_daemon_engine_info{", "swarm_manager_leader 1",
		`swarm_manager_nodes{state="ready"} 1`, "go_goroutines ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in:\n%s", want, out)
		}
	}
}
