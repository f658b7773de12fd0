package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// restartAs has a host start its daemon anew, as a machine of a name that runs a platform natively; either may be as it is.
func (h *host) restartAs(name, native string) {
	h.t.Helper()
	h.kill()
	if name != "" {
		h.name = name
		h.within = h.enter()
	}
	if native != "" {
		h.env = append(h.env, "GANTRY_SAYS_NATIVE="+native)
	}
	h.start()
}

// pcAndPi is a cluster of two machines, of which the second runs programs for ARMv7.
func pcAndPi(t *testing.T) (pc, pi *host) {
	t.Helper()
	hosts := newHosts(t, 2)
	pc, pi = hosts[0], hosts[1]
	pi.restartAs("", "linux/arm/v7")
	pc.run("swarm", "init", "--advertise-addr", pc.ip)
	pi.run("swarm", "join", "--token", pc.run("swarm", "join-token", "-q", "worker"), pc.ip)
	return pc, pi
}

// The whole way on two machines, a PC and a Raspberry Pi, three times: by a registry over TLS and one image name, by a registry over
// plain HTTP and an image for each machine, and without any registry. Both machines answer, each by its own architecture.
func TestClusterPCAndPi(t *testing.T) {
	pc, pi := pcAndPi(t)
	hosts := []*host{pc, pi}
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
			registry := pc.serves("5000", "--tls", "--open")
			pc.run("build", "-q", "--platform", both, "-t", registry+"/app:a", "--push", app)
			pc.run("rmi", "-f", registry+"/app:a")
			deploy("services: {app: {image: " + registry + "/app:a, ports: ['8080:8080'], deploy: {replicas: 2}}}\n")
			for _, h := range hosts {
				h.machines("8080", "app", "amd64", "arm")
			}
		}},
		{"B, a registry over plain HTTP", func() {
			registry := pc.serves("5001", "--open")
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

// passage is a part of a tutorial that a user types, or a file.
type passage struct {
	kind  string // console or yaml
	lines []string
}

// passages are a tutorial's, in order.
func passages(t *testing.T, path string) (all []passage) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(string(text), "\n```") {
		if i%2 == 1 {
			lines := strings.Split(part, "\n")
			all = append(all, passage{lines[0], lines[1:]})
		}
	}
	return all
}

// The tutorial does what it says: each of its blocks is run, in order. There is no name server in the test's network, so that addresses
// stand for the machines' names where a program is to find one; and the service is one that needs no packages.
func TestTutorialPCAndPi(t *testing.T) {
	hosts := newHosts(t, 2)
	addresses := strings.NewReplacer("--advertise-addr alfred", "--advertise-addr "+hosts[0].ip, ") alfred", ") "+hosts[0].ip,
		"alfred:5", hosts[0].ip+":5", "//alfred", "//"+hosts[0].ip, "//rpi1", "//"+hosts[1].ip)
	work := t.TempDir()
	if err := os.Rename(tellsMachine(t, "app"), filepath.Join(work, "simple-rest-app")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program(t), filepath.Join(work, "gantry")); err != nil {
		t.Fatal(err)
	}
	machines := map[string]*host{"alfred": hosts[0], "rpi1": hosts[1]}
	hosts[0].restartAs("alfred", "")
	hosts[1].restartAs("rpi1", "linux/arm/v7")
	answers := ""
	for _, b := range passages(t, "../../docs/tutorials/pc-and-pi.md") {
		if b.kind == "yaml" {
			text := addresses.Replace(strings.Join(b.lines, "\n")) + "\n"
			if err := os.WriteFile(filepath.Join(work, "stack.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for _, line := range b.lines {
			name, command, ok := strings.Cut(line, "# ")
			if !ok || machines[name] == nil {
				t.Fatalf("on which machine is %q?", line)
			}
			out := machines[name].types(work, addresses.Replace(command))
			if strings.HasPrefix(command, "curl ") {
				answers += out
			}
		}
	}
	for _, want := range []string{"app amd64", "app arm"} {
		if n := strings.Count(answers, want+"\n"); n != 4 {
			t.Errorf("%q was answered %d times, want 4: %q", want, n, answers)
		}
	}
}

// types runs a line of a shell's on the host, as a user does. What it starts in the background ends with the test.
func (h *host) types(dir, line string) string {
	h.t.Helper()
	if rest, ok := strings.CutSuffix(line, " &"); ok {
		args := strings.Fields(strings.TrimPrefix(rest, "gantry registry serve"))
		h.servesAt(args[slices.Index(args, "--addr")+1], args...)
		return ""
	}
	all := slices.Concat(h.within, []string{"sh", "-c", line})
	var out []byte
	eventually(h.t, h.name+"# "+line, func() (err error) { // a name and a port are known at once, and everywhere a moment later
		cmd := exec.CommandContext(h.t.Context(), all[0], all[1:]...)
		cmd.Dir = dir
		cmd.Env = slices.Concat(os.Environ(), h.env, []string{"PATH=" + dir + ":" + os.Getenv("PATH")})
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	return string(out)
}
