package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// Lists of manifests are made of local images, tags and digests, and pushed, over TLS by an authority of its own: by
// docker's manifest and by buildx's imagetools. What is pushed runs from there on both platforms.
func TestManifestLists(t *testing.T) {
	g := newGantry(t)
	host := g.registry(true)
	for _, p := range strings.Split(both, ",") {
		g.run("build", "-q", "--platform", p, "-t", "probe:"+strings.Split(p, "/")[1], probe(t))
	}
	g.run("tag", "probe:arm", host+"/one/arm:1")
	g.run("push", "-q", host+"/one/arm:1")

	list := host + "/app:1"
	if out := g.run("manifest", "create", list, "probe:amd64", host+"/one/arm:1"); out != "Created manifest list "+list {
		t.Errorf("%s", out)
	}
	g.fails([]string{"--amend"}, "manifest", "create", list, "probe:amd64")
	g.run("manifest", "annotate", list, "probe:amd64", "--os-version", "9")
	g.fails([]string{"unsupported"}, "manifest", "annotate", list, "probe:amd64", "--arch", "punch/card")
	pushed := g.run("manifest", "push", "--purge", list)
	g.fails([]string{"not found"}, "manifest", "push", list)
	var idx struct {
		Manifests []struct {
			Digest   string
			Platform struct {
				Architecture, Variant string
				Version               string `json:"os.version"`
			}
		}
	}
	if err := json.Unmarshal([]byte(g.run("manifest", "inspect", list)), &idx); err != nil || len(idx.Manifests) != 2 ||
		idx.Manifests[0].Platform.Version != "9" || idx.Manifests[1].Platform.Variant != "v7" {
		t.Fatalf("%+v, %v", idx, err)
	}
	if out := g.run("manifest", "inspect", "-v", list); strings.Count(out, `"Ref": "`+list+"@sha256:") != 2 {
		t.Errorf("%s", out)
	}
	if out := g.run("buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", list); out != pushed {
		t.Errorf("%q, pushed %q", out, pushed)
	}

	g.run("buildx", "imagetools", "create", "-t", host+"/app:2", "probe:amd64", list+"@"+idx.Manifests[1].Digest)
	for tag, platforms := range map[string]string{list: both, host + "/app:2": both} {
		for _, p := range strings.Split(platforms, ",") {
			g.run("pull", "-q", "--platform", p, tag)
			if out := g.run("run", "--rm", "--platform", p, tag, "say", "hi"); out != "hi" {
				t.Errorf("%s for %s says %q", tag, p, out)
			}
		}
	}
	g.fails([]string{"no such manifest"}, "manifest", "inspect", host+"/nothing:1")

	// A builder that a script makes is this daemon, whatever its driver is called.
	g.run("buildx", "create", "--name", "ci", "--driver", "docker-container", "--use")
	g.run("buildx", "build", "-q", "--builder", "ci", "-t", "by:ci", probe(t))
	if out := g.run("run", "--rm", "by:ci"); out != "hello" {
		t.Errorf("%q", out)
	}
}

// All of a repository is pushed and pulled by one command.
func TestAllTags(t *testing.T) {
	g := newGantry(t)
	host := g.registry(true)
	g.run("build", "-q", "-t", host+"/app:1", "-t", host+"/app:2", probe(t))
	g.run("push", "-q", "-a", host+"/app")
	g.run("rmi", "-f", host+"/app:1", host+"/app:2")
	g.run("pull", "-q", "-a", host+"/app")
	if out := g.run("images", "--format", "{{.Repository}}:{{.Tag}}"); out != host+"/app:1\n"+host+"/app:2" &&
		out != host+"/app:2\n"+host+"/app:1" {
		t.Errorf("%q", out)
	}
}

// What takes space is told with what keeps it, and nothing is begun that has no room.
func TestDiskBudget(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("run", "-d", "--name", "web", "-v", "data:/d", "probe", "sleep")
	g.run("volume", "create", "free")
	why := g.run("system", "df", "--why")
	for _, want := range []string{"image         probe:latest",
		"container web", "volume        data", "it is running", "nobody: gantry volume rm free",
		"build cache", "gantry's programs and databases"} {
		if !strings.Contains(why, want) {
			t.Errorf("%q is not in:\n%s", want, why)
		}
	}
	if out := g.run("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"); !strings.HasPrefix(out,
		"Images 1 1\nContainers 1 1\n") {
		t.Errorf("%s", out)
	}

	noRoom(t, g)
}

// noRoom has a pull and a build fail in a data root that is nearly full.
func noRoom(t *testing.T, g *gantry) {
	host := g.registry(true)
	big := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY noise /\n"} {
		if err := os.WriteFile(filepath.Join(big, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("dd", "if=/dev/urandom", "of="+filepath.Join(big, "noise"), "bs=1M",
		"count=150").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g.run("build", "-q", "-t", host+"/big", "--push", big)

	small := &gantry{t: t, bin: g.bin, root: t.TempDir(), env: append([]string{}, g.env...)}
	if out, err := exec.Command(need.Tool(t, "mount"), "-t", "tmpfs", "-o", "size=480m,mode=711", "none",
		small.root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := exec.Command("umount", small.root).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	small.env[0] = "GANTRY_ROOT=" + small.root
	defer small.output("daemon", "stop")
	ca, err := os.ReadFile(filepath.Join(g.root, "registry/tls/ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	certs := filepath.Join(small.root, "certs.d", host)
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	small.run("info")
	fill := filepath.Join(small.root, "fill")
	write := func(left int) {
		t.Helper()
		_ = os.Remove(fill)
		script := fmt.Sprintf("dd if=/dev/zero of=%s bs=1M count=$(($(df --output=avail -m %s | tail -1) - %d))", fill, small.root, left)
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	write(200)
	small.fails([]string{"takes at least", "gantry system df --why", "gantry system prune"}, "pull", host+"/big")
	write(8)
	small.fails([]string{"a build takes at least"}, "build", "-q", probe(t))
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	small.run("build", "-q", probe(t))
}

// Completions are made for the shells that people have.
func TestCompletions(t *testing.T) {
	g := newGantry(t)
	for shell, want := range map[string]string{"bash": "__start_gantry", "zsh": "#compdef gantry", "fish": "complete -c gantry"} {
		if out := g.run("completion", shell); !strings.Contains(out, want) {
			t.Errorf("%s: %q is not in %d bytes", shell, want, len(out))
		}
	}
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("create", "--name", "web", "probe")
	for line, want := range map[string]string{"start w": "web", "rmi pro": "probe", "run --platf": "--platform", "system d": "df"} {
		out, _, err := g.try(append([]string{"__complete"}, strings.Fields(line)...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q, %v", line, out, err)
		}
	}
}

// Process 1 with --init collects what loses its parent and passes signals on, on both platforms.
func TestInit(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	const script = `(sleep 0.1 & exec true); trap "exit 42" TERM; echo up; while :; do sleep 0.05; done`
	for _, p := range strings.Split(both, ",") {
		g.run("run", "-d", "--name", "box", "--init", "--platform", p, "debian:bookworm-slim", "sh", "-c", script)
		eventually(t, "the orphan is collected", func() error {
			if out := g.output("top", "box", "-o", "pid,stat,comm"); strings.Contains(out, "Z") || g.output("logs", "box") != "up" {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		if out := g.run("exec", "box", "readlink", "/proc/1/exe"); filepath.Base(out) != "docker-init" {
			t.Errorf("process 1 is %q", out)
		}
		g.run("stop", "box")
		if out := g.run("inspect", "-f", "{{.State.ExitCode}}", "box"); out != "42" {
			t.Errorf("%s: it ended with %s", p, out)
		}
		g.run("rm", "box")
	}
	cmd := g.command("run", "--rm", "--init", "-i", "debian:bookworm-slim", "cat")
	cmd.Stdin = strings.NewReader("through")
	if out, err := cmd.Output(); err != nil || !bytes.Equal(out, []byte("through")) {
		t.Errorf("%q, %v", out, err)
	}
}
