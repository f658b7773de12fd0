package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The whole way on two machines, a PC and a Raspberry Pi, three times: by a registry over TLS and one image name, by a registry over
// plain HTTP and an image for each machine, and without any registry. Both machines answer, each by its own architecture.
func TestClusterPCAndPi(t *testing.T) {
	hosts := newHosts(t, 2)
	pc, pi := hosts[0], hosts[1]
	pi.kill()
	pi.env = append(pi.env, "GANTRY_SAYS_NATIVE=linux/arm/v7")
	pi.start()
	pc.run("swarm", "init", "--advertise-addr", pc.ip)
	pi.run("swarm", "join", "--token", pc.run("swarm", "join-token", "-q", "worker"), pc.ip)
	app := tellsMachine(t, "app")
	deploy := func(text string, args ...string) {
		t.Helper()
		file := stackOf(t, app, text)
		pc.run(append(append([]string{"stack", "deploy", "-d", "--with-registry-auth", "-c", file}, args...), "s")...)
	}
	remove := func() {
		t.Helper()
		pc.run("stack", "rm", "s")
		eventually(t, "nothing is left of the stack", func() error {
			n := containers(hosts, "s_app") + containers(hosts, "s_pc") + containers(hosts, "s_pi")
			return unless(n == 0 && pc.run("network", "ls", "-q", "--filter", "name=s_default") == "", "%d containers", n)
		})
	}
	for _, way := range []struct {
		name string
		do   func()
	}{
		{"A, a registry over TLS", func() {
			registry, _ := pc.serves("5000", "--tls", "--open")
			pc.run("build", "-q", "--platform", both, "-t", registry+"/app:a", "--push", app)
			pc.run("rmi", "-f", registry+"/app:a")
			deploy("services: {app: {image: " + registry + "/app:a, ports: ['8080:8080'], deploy: {replicas: 2}}}\n")
			for _, h := range hosts {
				h.machines("8080", "app", "amd64", "arm")
			}
		}},
		{"B, a registry over plain HTTP", func() {
			registry, _ := pc.serves("5001", "--open")
			for tag, platform := range map[string]string{"pc": "linux/amd64", "pi": "linux/arm/v7"} {
				pc.run("build", "-q", "--platform", platform, "--registry-http", registry, "-t", registry+"/app:"+tag, "--push", app)
				pc.run("rmi", "-f", registry+"/app:"+tag)
			}
			deploy("services:\n  pc: {image: " + registry + "/app:pc, ports: ['8080:8080'], deploy: {placement: {constraints: " +
				"[node.hostname==host1]}}}\n  pi: {image: " + registry + "/app:pi, ports: ['8081:8080'], deploy: {placement: " +
				"{constraints: [node.hostname==host2]}}}\n")
			for _, h := range hosts {
				h.machines("8080", "app", "amd64")
				h.machines("8081", "app", "arm")
			}
		}},
		{"C, no registry", func() {
			deploy("services: {app: {build: ., ports: ['8080:8080'], deploy: {replicas: 2}}, pi: {build: ., image: 'only:pi', "+
				"ports: ['8081:8080'], deploy: {placement: {constraints: [node.hostname==host2]}}}}\n", "--build")
			for _, h := range hosts {
				h.machines("8080", "app", "amd64", "arm")
				h.machines("8081", "app", "arm")
			}
			if out := pc.run("image", "inspect", "-f", "{{.Architecture}}", "only:pi"); out != "arm" {
				t.Errorf("the image for the second machine alone is for %s", out)
			}
		}},
	} {
		begin := time.Now()
		way.do()
		t.Logf("%s: %.1f s", way.name, time.Since(begin).Seconds())
		remove()
	}
	pc.fails([]string{"no node", "node.hostname==nobody", "stack.yaml"}, "stack", "deploy", "--build", "-c", stackOf(t, app,
		"services: {app: {build: ., deploy: {placement: {constraints: [node.hostname==nobody]}}}}\n"), "s")
	pc.fails([]string{"--build"}, "stack", "deploy", "-c", stackOf(t, app, "services: {app: {build: .}}\n"), "s")
}

// stackOf writes a stack's file beside what it builds.
func stackOf(t *testing.T, dir, text string) string {
	t.Helper()
	file := filepath.Join(dir, "stack.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
