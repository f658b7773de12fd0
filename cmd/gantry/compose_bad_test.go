package main

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What is wrong with a Compose file, or with what it asks for, is said in Compose's words and with its exit code, and down
// takes away whatever was made.
func TestComposeBadInput(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	g.run("create", "--name", "taken", "probe")
	const sleeps = "\n    image: probe\n    command: [sleep]\n"
	for _, c := range []struct {
		name, file, want string
		line             string // that gantry's own Compose says it is in
	}{
		{"cycle", "a:" + sleeps + "    depends_on: [b]\n  b:" + sleeps + "    depends_on: [a]\n",
			"dependency cycle detected: a -> b -> a", ""},
		{"no such env_file", "a:" + sleeps + "    env_file: none.env\n", "none.env not found", ""},
		{"interpolation", "a:\n    image: ${IMAGE\n", "invalid interpolation format for services.a.image", "4"},
		{"required", "a:\n    image: ${NO_SUCH_IMAGE:?name an image}\n", "name an image", ""},
		{"unknown key", "a:" + sleeps + "    imagine: 1\n", "services.a.imagine", "6"},
		{"not YAML", "a: [\n", "at L4", "4"},
		{"port in use", "a:" + sleeps + "    ports: ['" + taken.Addr().String() + ":80']\n", "already", ""},
		{"name in use", "a:" + sleeps + "    container_name: taken\n", `The container name "/taken" is already in use`, ""},
		{"no such image", "a:\n    image: none\n    pull_policy: never\n", "No such image: none", ""},
		{"no such runtime", "a:" + sleeps + "    runtime: none\n", "unknown or invalid runtime name: none", ""},
		{"model", "a:" + sleeps + "    models: [m]\nmodels:\n  m: {model: ai/none}\n", "model", ""},
		{"provider", "a:\n    provider: {type: no-such-provider}\n", "no-such-provider", ""},
		{"unhealthy", "a:" + sleeps + "    healthcheck: {test: [CMD, /probe, exit, '1'], interval: 100ms, retries: 2}\n  b:" + sleeps +
			"    depends_on: {a: {condition: service_healthy}}\n", "dependency failed to start: container bad-a-1 is unhealthy", ""},
		{"failed job", "a:\n    image: probe\n    command: [exit, '3']\n  b:" + sleeps +
			"    depends_on: {a: {condition: service_completed_successfully}}\n",
			`service "a" didn't complete successfully: exit 3`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := dir(t, map[string]string{"compose.yaml": "name: bad\nservices:\n  " + c.file})
			byEach(t, g, d, func(t *testing.T, do composer) {
				out, code := do.try("up", "-d")
				if place := filepath.Join(d, "compose.yaml") + ":" + c.line + ":"; c.line != "" && do.own && !strings.Contains(out, place) {
					t.Errorf("%s is not said:\n%s", place, out)
				}
				if code != 1 || !strings.Contains(out, c.want) {
					t.Errorf("exit code %d, want 1 and %q:\n%s", code, c.want, out)
				}
				do.try("-p", "bad", "down", "-t", "0")
				nothingOf(t, g, "bad")
			})
		})
	}
}

// nothingOf wants no container, network or volume of a project to be there.
func nothingOf(t *testing.T, g *gantry, project string) {
	t.Helper()
	for _, kind := range [][]string{{"ps", "-aq"}, {"network", "ls", "-q"}, {"volume", "ls", "-q"}} {
		args := append(kind, "--filter", "label=com.docker.compose.project="+project)
		if left := g.run(args...); left != "" {
			t.Errorf("%s has left %s", project, left)
		}
	}
}

// Ctrl-C stops what up shows, as Compose does it; the third leaves what does not stop, as docker does it. In the middle of a
// start it leaves nothing that down does not take away.
func TestComposeInterrupted(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	d := dir(t, map[string]string{
		"compose.yaml":  "name: calm\nservices:\n  a:\n    image: probe\n    command: [serve, ':80', x]\n    deploy: {replicas: 3}\n",
		"stubborn.yaml": "name: stubborn\nservices:\n  a:\n    image: probe\n    command: [deaf]\n    stop_grace_period: 5m\n",
	})
	byEach(t, g, d, func(t *testing.T, c composer) {
		for _, file := range []string{"compose.yaml", "stubborn.yaml"} {
			up := c.command("-f", filepath.Join(d, file), "up")
			var said bytes.Buffer
			up.Stdout, up.Stderr = &said, &said
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			project := map[string]string{"compose.yaml": "calm", "stubborn.yaml": "stubborn"}[file]
			running := func() string { return g.run("ps", "-q", "--filter", "label=com.docker.compose.project="+project) }
			eventually(t, project, func() error { return unless(running() != "", "does not run") })
			time.Sleep(time.Second)
			_ = up.Process.Signal(syscall.SIGINT)
			want := 130
			if project == "stubborn" {
				for range 2 {
					time.Sleep(time.Second)
					_ = up.Process.Signal(syscall.SIGINT)
				}
				want = 1
			}
			begin := time.Now()
			_ = up.Wait()
			if code := up.ProcessState.ExitCode(); code != want || time.Since(begin) > 30*time.Second {
				t.Errorf("%s: exit code %d after %s, want %d\n%s", project, code, time.Since(begin), want, said.String())
			}
			if left := running(); left != "" && project == "calm" {
				t.Errorf("%s runs on: %s", project, left)
			}
			c.run("-f", filepath.Join(d, file), "down", "-t", "1")
			nothingOf(t, g, project)
		}
		for _, after := range []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, time.Second} {
			up := c.command("up", "-d")
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			_ = up.Process.Signal(syscall.SIGINT)
			_ = up.Wait()
			c.run("down", "-t", "1")
			nothingOf(t, g, "calm")
		}
	})
}
