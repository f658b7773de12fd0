package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const testStack = `
services:
  web:
    image: probe
    env_file: web.env
    command: [show, /run/secrets/token, /greeting]
    secrets: [token]
    configs: [{source: greeting, target: /greeting}]
    restart: "no"
    deploy: {replicas: 2}
  all:
    image: probe
    command: [serve, ":80", "$$AT"]
    environment: {AT: "{{.Node.Hostname}}"}
    ports: ["8080:80"]
    networks: {default: {aliases: [everywhere]}}
    deploy: {mode: global}
  extra: {image: probe, profiles: [never]}
secrets: {token: {environment: TOKEN}}
configs: {greeting: {content: "hello from ${WHO:-nobody}"}}
`

// A stack is deployed, looked at, changed and removed.
func TestClusterStack(t *testing.T) {
	m := newCluster(t, 1, 1)[0]
	dir := t.TempDir()
	file := filepath.Join(dir, "stack.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("web.env", "WORD=hello\n")
	write("stack.yaml", testStack)
	m.env = append(m.env, "TOKEN=from the environment", "WHO=the test")
	deploy := func(args ...string) string {
		t.Helper()
		return m.run(append([]string{"stack", "deploy", "--resolve-image", "never", "-c", file}, args...)...)
	}
	deploy("-d", "My")
	eventually(t, "the global service", func() error {
		out := m.run("stack", "services", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}", "My")
		return unless(strings.Contains(out, "My_all global 2/2"), "%s", out)
	})
	eventually(t, "what the tasks have read", func() error {
		out := m.run("service", "logs", "--raw", "My_web")
		return unless(strings.Count(out, "from the environment") == 2 && strings.Count(out, "hello from the test") == 2, "%s", out)
	})
	if out := m.run("stack", "ls", "--format", "{{.Name}} {{.Services}}"); out != "My 2" {
		t.Errorf("stacks: %s", out)
	}
	eventually(t, "the stack's names and ports", func() error {
		out, err := m.inTask("My_all", "get", "http://everywhere")
		if err == nil {
			out, err = m.get("http://" + m.ip + ":8080")
		}
		return unless(err == nil && strings.HasPrefix(out, "host"), "%v: %s", err, out)
	})
	nodes := strings.Fields(m.run("stack", "ps", "--format", "{{.Node}}", "--filter", "name=My_all", "My"))
	if slices.Sort(nodes); !slices.Equal(nodes, []string{"host1", "host2"}) {
		t.Errorf("the global service is on %v: %s", nodes, m.output("stack", "ps", "--no-trunc", "My"))
	}

	write("stack.yaml", "services: {all: {image: probe, command: [serve, ':81', x], deploy: {mode: global}}}")
	deploy("--detach=false", "-q", "--prune", "My")
	eventually(t, "the pruned service is gone", func() error {
		out := m.run("stack", "services", "-q", "My")
		return unless(strings.Count(out, "\n") == 0, "%s", out)
	})

	write("stack.yaml", "services:\n  all:\n    image: probe\n    privileged: true\n")
	m.fails([]string{file + ":4: services.all.privileged: "}, "stack", "deploy", "-c", file, "My")
	m.run("stack", "rm", "--detach=false", "My")
	left := m.run("stack", "ls", "--format", "{{.Name}}") + m.run("network", "ls", "-q", "--filter", "name=My")
	if left += m.run("secret", "ls", "-q") + m.run("service", "ls", "-q"); left != "" {
		t.Errorf("left: %s", left)
	}
}
