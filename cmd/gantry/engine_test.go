package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	moby "github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The unmodified docker CLI copies files in and out, tells what a container has changed and uses, changes its limits, and
// makes images of it, native and emulated.
func TestContainersByDocker(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	c := newClient(t, g)
	docker, expect := c.docker, c.expect
	const base = "debian:bookworm-slim"
	for _, platform := range []string{"linux/amd64", "linux/arm/v7"} {
		t.Run(strings.ReplaceAll(platform, "/", "-"), func(t *testing.T) {
			docker("run", "-d", "--name", "box", "--platform", platform, "-m", "64m", base, "sleep", "1000")
			host := dir(t, map[string]string{"in/a": "from the host", "in/sub/b": "below"})
			docker("cp", filepath.Join(host, "in"), "box:/opt/")
			expect("from the host", "exec", "box", "cat", "/opt/in/a")
			docker("exec", "box", "sh", "-c", "echo changed >/opt/in/a && rm /etc/debian_version && ln -s in/a /opt/link")
			docker("cp", "box:/opt/in/.", filepath.Join(host, "out"))
			if got, err := os.ReadFile(filepath.Join(host, "out/a")); err != nil || string(got) != "changed\n" {
				t.Errorf("copied out: %q, %v", got, err)
			}
			docker("cp", "-L", "box:/opt/link", filepath.Join(host, "followed"))
			if got, err := os.ReadFile(filepath.Join(host, "followed")); err != nil || string(got) != "changed\n" {
				t.Errorf("what a symlink leads to: %q, %v", got, err)
			}
			expect("C /etc\nD /etc/debian_version\nC /opt\nA /opt/in\nA /opt/in/a\nA /opt/in/sub\nA /opt/in/sub/b\nA /opt/link",
				"diff", "box")
			docker("update", "-m", "96m", "--restart", "always", "box")
			expect("100663296 always", "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}", "box")
			stats := docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", "box")
			if !strings.HasPrefix(stats, "box ") || !strings.Contains(stats, "/ 96MiB") {
				t.Errorf("%s", stats)
			}
			docker("commit", "-a", "me", "-m", "of a test", "-c", "CMD cat /opt/in/a", "-c", "ENV A=b", "box", "made")
			expect("changed", "run", "--rm", "--platform", platform, "made")
			expect("b", "run", "--rm", "--platform", platform, "made", "printenv", "A")
			expect("me of a test", "image", "inspect", "-f", "{{.Author}} {{.Comment}}", "made")
			docker("export", "-o", filepath.Join(host, "tar"), "box")
			docker("rm", "-f", "box")
			docker("import", "--platform", platform, "-c", "ENTRYPOINT [\"cat\"]", filepath.Join(host, "tar"), "imported")
			expect("changed", "run", "--rm", "--platform", platform, "imported", "/opt/link")
			if platform == "linux/amd64" { // which is what is mounted here
				docker("create", "--name", "viewer", "--mount", "type=image,src=imported,dst=/img", base, "true")
				if out := c.fails("docker", "rmi", "imported"); !strings.Contains(out, "is using its referenced image") {
					t.Errorf("%s", out)
				}
				docker("rm", "viewer")
			}
			docker("rmi", "-f", "made", "imported")
		})
	}
}

// The unmodified docker CLI prunes everything that nobody uses, the build cache included.
func TestPruneByDocker(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	c := newClient(t, g)
	c.run("docker", "run", "probe", "say", "x")
	c.run("docker", "network", "create", "unused")
	got := c.run("docker", "system", "prune", "-af")
	for _, want := range []string{
		"Deleted Containers:", "Deleted Networks:\nunused", "Deleted Images:\nuntagged: probe:latest", "Deleted build cache objects:",
		"Total reclaimed space:",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
	}
	if left := strings.TrimSpace(g.run("du", "--format", "{{.ID}}")); left != "" {
		t.Errorf("left in the build cache: %s", left)
	}
}

// SDKs build by the classic builder's API, for any platform.
func TestClassicBuild(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	api, err := moby.New(moby.WithHost("unix://" + g.status().Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	build := func(dockerfile string, o moby.ImageBuildOptions) string {
		t.Helper()
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, text := range map[string]string{"Dockerfile": dockerfile, "f": "from the context"} {
			if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		res, err := api.ImageBuild(t.Context(), &b, o)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		said, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(said)
	}
	arg := "told"
	const text = "FROM debian:bookworm-slim\nARG A\nCOPY f /f\nRUN echo \"$A on $(uname -m)\" >/said\nCMD cat /f /said\n"
	for _, platform := range []string{"linux/amd64", "linux/arm/v7"} {
		said := build(text, moby.ImageBuildOptions{
			Tags: []string{"made"}, BuildArgs: map[string]*string{"A": &arg}, Labels: map[string]string{"l": "1"},
			Platforms: []ocispec.Platform{platforms.MustParse(platform)},
		})
		for _, want := range []string{"Step 1/3 : FROM", "Step 3/3 : RUN", `"ID":"sha256:`, "Successfully tagged made:latest"} {
			if !strings.Contains(said, want) {
				t.Errorf("%q is not in:\n%s", want, said)
			}
		}
		want := "from the contexttold on " + map[string]string{"linux/amd64": "x86_64", "linux/arm/v7": "armv7l"}[platform]
		if got := g.run("run", "--rm", "--platform", platform, "made"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for dockerfile, want := range map[string]string{
		"# nothing\n\n": "file with no instructions", "FROM debian:bookworm-slim\nRUN exit 7\n": "exit code: 7",
		"FRO x\n": "unknown instruction",
	} {
		if said := build(dockerfile, moby.ImageBuildOptions{}); !strings.Contains(said, want) {
			t.Errorf("%q: %s", dockerfile, said)
		}
	}
}
