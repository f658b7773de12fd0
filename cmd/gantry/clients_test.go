package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/api"
	"github.com/gantry-build/gantry/internal/need"
)

// client is one of Docker's or BuildKit's own programs, pointed at a gantry daemon.
type client struct {
	t      *testing.T
	config string // Docker's configuration directory, with the plugins
	socket string
}

func newClient(t *testing.T, g *gantry) client {
	t.Helper()
	config := t.TempDir()
	plugins := filepath.Join(config, "cli-plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"docker-buildx", "docker-compose"} {
		path, err := filepath.Abs(need.File(t, "../../.cache/peers/"+p, "peers"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(plugins, p)); err != nil {
			t.Fatal(err)
		}
	}
	return client{t, config, g.status().Socket}
}

// docker runs the docker CLI, and returns what it prints.
func (c client) docker(args ...string) string { c.t.Helper(); return c.run("docker", args...) }

// expect runs the docker CLI, which is to print want.
func (c client) expect(want string, args ...string) {
	c.t.Helper()
	if got := c.docker(args...); got != want {
		c.t.Errorf("docker %s: %q, want %q", strings.Join(args, " "), got, want)
	}
}

// fails runs what is to fail, and returns all that it says.
func (c client) fails(program string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(need.File(c.t, "../../.cache/peers/"+program, "peers"), args...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+c.config, "DOCKER_HOST=unix://"+c.socket)
	out, err := cmd.CombinedOutput()
	if err == nil {
		c.t.Errorf("%s %s did not fail: %s", program, strings.Join(args, " "), out)
	}
	return string(out)
}

func (c client) run(program string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(need.File(c.t, "../../.cache/peers/"+program, "peers"), args...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+c.config, "DOCKER_HOST=unix://"+c.socket, "BUILDKIT_PROGRESS=plain")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out.String(), tail(errs.String(), 40))
	}
	return strings.TrimSpace(out.String())
}

// Unmodified clients build the sample for both platforms with the daemon as their builder, and what
// they have built runs.
func TestForeignClientsBuild(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	c := newClient(t, g)
	sample := "../../testdata/simple-rest-app"
	builds := map[string]func(ref string){
		"docker build":   func(ref string) { c.run("docker", "build", "--platform", both, "-t", ref, sample) },
		"docker buildx":  func(ref string) { c.run("docker", "buildx", "build", "--platform", both, "-t", ref, sample) },
		"docker compose": func(ref string) { c.run("docker", "compose", "-f", composeFile(t, sample, ref), "build") },
		"buildctl": func(ref string) {
			c.run("buildctl", "--addr", "unix://"+c.socket, "build", "--frontend", "dockerfile.v0", "--opt", "platform="+both,
				"--local", "context="+sample, "--local", "dockerfile="+sample, "--output", "type=image,name="+ref)
		},
		"buildx remote": func(ref string) {
			c.run("docker", "buildx", "create", "--driver", "remote", "--name", "far", "unix://"+c.socket)
			c.run("docker", "buildx", "--builder", "far", "build", "--platform", both, "--output", "type=image,name="+ref, sample)
		},
		"buildx remote with load": func(ref string) {
			c.run("docker", "buildx", "create", "--driver", "remote", "--name", "loader", "unix://"+c.socket)
			c.run("docker", "buildx", "--builder", "loader", "build", "--platform", both, "--load", "-t", ref, sample)
		},
	}
	for name, build := range builds {
		t.Run(name, func(t *testing.T) {
			ref := strings.ReplaceAll(name, " ", "-") + ":1"
			build(ref)
			for platform, machine := range map[string]string{"linux/amd64": "x86_64", "linux/arm/v7": "armv7l"} {
				if out := g.run("run", "--rm", "--platform", platform, "--entrypoint", "uname", ref, "-m"); out != machine {
					t.Errorf("%s runs on %s", platform, out)
				}
			}
		})
	}
	if out := c.run("docker", "version", "--format", "{{.Server.APIVersion}} {{(index .Server.Components 0).Name}}"); out != api.MaxVersion+
		" Engine" {
		t.Errorf("docker version shows the server %q, want %s Engine", out, api.MaxVersion)
	}
	if out := c.run("docker", "buildx", "du"); !strings.Contains(out, "Total:") {
		t.Errorf("docker buildx du: %s", out)
	}
	if out := c.run("docker", "buildx", "history", "ls"); !strings.Contains(out, "Completed") {
		t.Errorf("docker buildx history ls: %s", out)
	}
}

func composeFile(t *testing.T, context, ref string) string {
	abs, err := filepath.Abs(context)
	if err != nil {
		t.Fatal(err)
	}
	d := dir(t, map[string]string{"compose.yaml": "services:\n  web:\n    image: " + ref + "\n    build:\n      context: " + abs +
		"\n      platforms: [linux/amd64, linux/arm/v7]\n"})
	return filepath.Join(d, "compose.yaml")
}

// Images leave as an archive and come back from it whole, to and from Docker's own client.
func TestSaveAndLoad(t *testing.T) {
	g := newGantry(t)
	built := g.run("build", "-q", "--platform", both, "-t", "probe", probe(t))
	c := newClient(t, g)
	tar := filepath.Join(t.TempDir(), "probe.tar")
	c.run("docker", "save", "-o", tar, "probe")
	if out := g.run("image", "inspect", "--format", "{{.ID}}", "probe"); out != built {
		t.Errorf("saving %s has made %s of it", built, out)
	}
	if out := c.run("docker", "load", "-i", tar); !strings.Contains(out, "Loaded image: probe:latest") ||
		g.run("image", "inspect", "--format", "{{.ID}}", "probe") != built {
		t.Errorf("what was saved is another image when it comes back: %s", out)
	}
	g.run("rmi", "-f", "probe")
	if out := c.run("docker", "load", "-i", tar); !strings.Contains(out, "Loaded image: probe:latest") {
		t.Errorf("docker load: %s", out)
	}
	for _, platform := range strings.Split(both, ",") {
		if out := g.run("run", "--rm", "--platform", platform, "probe", "say", "hi"); out != "hi" {
			t.Errorf("%s says %q", platform, out)
		}
	}
	cut := filepath.Join(t.TempDir(), "cut.tar")
	dt, err := os.ReadFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, dt[:len(dt)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	g.run("rmi", "-f", "probe")
	g.fails([]string{"archive"}, "load", "-i", cut)
	if out := g.run("images", "-q"); out != "" {
		t.Errorf("a failed load left %s", out)
	}
}
