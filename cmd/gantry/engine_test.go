package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The unmodified docker CLI copies files in and out, tells what a container has changed and uses, changes its limits, and
// makes images of it, native and emulated.
func TestContainersByDocker(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	c := newClient(t, g)
	docker := func(args ...string) string { t.Helper(); return c.run("docker", args...) }
	expect := func(want string, args ...string) {
		t.Helper()
		if got := docker(args...); got != want {
			t.Errorf("docker %s: %q, want %q", strings.Join(args, " "), got, want)
		}
	}
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
