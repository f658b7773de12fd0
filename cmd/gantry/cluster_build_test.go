package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// neverEmulates has a host's daemon refuse what it does not run itself.
func (h *host) neverEmulates() {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "gantry.toml")
	if err := os.WriteFile(file, []byte("emulation = \"off\"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.kill()
	h.env = append(h.env, "GANTRY_CONFIG="+file)
	h.start()
}

// A manager that runs no other platform than its own builds for another one: its steps run on a node that runs it, with the context, the
// secrets and the base image that the manager has, and what they made is part of one image and one cache.
func TestClusterBuildsNatively(t *testing.T) {
	pc, pi, second := mixedCluster(t)
	pc.neverEmulates()
	pc.untilLeads()
	pc.base("linux/amd64", "linux/arm/v7")
	d := dir(t, map[string]string{
		"Dockerfile": `FROM debian:bookworm-slim AS made
WORKDIR /src
COPY input .
RUN --mount=type=secret,id=word dpkg --print-architecture > arch && cat input /run/secrets/word > out
FROM debian:bookworm-slim
COPY --from=made /src /src
RUN echo second >> /src/out
`,
		"input": "first\n", "word": "secret\n",
	})
	// Both results are here, and run where they can.
	out := pc.built(d, "-t", "app")
	on, other := pi, second
	if strings.Contains(out, "on node host3") {
		on, other = second, pi
	}
	for _, want := range []string{
		"[linux/arm/v7] build on a node that runs it natively",
		"on " + on.name + ": [linux/arm/v7 made 4/4] RUN", "[linux/arm/v7 made 4/4] RUN",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is missing in\n%s", want, out)
		}
	}
	const text = "first\nsecret\nsecond"
	id := pc.run("image", "inspect", "-f", "{{.Id}}", "app")
	for h, platform := range map[*host]string{pc: "linux/amd64", other: "linux/arm/v7"} {
		if got := h.run("run", "--rm", "--platform", platform, "app@"+id, "cat", "/src/out"); got != text {
			t.Errorf("the image for %s has %q, want %q", platform, got, text)
		}
	}
	if got := other.run("run", "--rm", "app@"+id, "cat", "/src/arch"); got != "armhf" {
		t.Errorf("what was built for arm says %s", got)
	}

	// It is built again where its cache is; without a cache all of it is, and with one nothing.
	if again := pc.built(d, "-t", "app"); !strings.Contains(again, "on node "+on.name) || strings.Contains(again, "] RUN DONE") {
		t.Errorf("the second time:\n%s", again)
	}
	if got := pc.run("image", "inspect", "-f", "{{.Id}}", "app"); got != id {
		t.Errorf("the same build gave %s, and %s before", got, id)
	}
	pc.built(d, "--no-cache", "-t", "app")
	if got := pc.run("image", "inspect", "-f", "{{.Id}}", "app"); got == id {
		t.Error("--no-cache took what was there")
	}

	// One cache reference has both platforms: with it, a builder that is not of the cluster makes neither anew.
	to := filepath.Join(t.TempDir(), "cache")
	pc.built(d, "--cache-to", "type=local,dest="+to+",mode=max", "-t", "app")
	alone := newGantry(t)
	alone.base("linux/amd64", "linux/arm/v7")
	_, stderr, err := alone.try("build", "--progress=plain", "--platform", both, "--secret", "id=word,src="+filepath.Join(d, "word"),
		"--cache-from", "type=local,src="+to, "-t", "app", d)
	if err != nil || strings.Contains(stderr, "emulated linux/arm/v7") {
		t.Errorf("the cache's reference does not have all: %v\n%s", err, stderr)
	}
}

// built is what a build for both platforms says.
func (h *host) built(d string, args ...string) string {
	h.t.Helper()
	args = append([]string{"build", "--progress=plain", "--platform", both, "--secret", "id=word,src=" + filepath.Join(d, "word")}, args...)
	_, stderr, err := h.try(append(args, d)...)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, stderr)
	}
	return stderr
}

// A step that fails elsewhere fails the build, at its line; a node that goes away while it builds is replaced by another one, and when
// there is none, the steps run here, which is said.
func TestClusterBuildsWithoutNodes(t *testing.T) {
	pc, pi, second := mixedCluster(t)
	pc.base("linux/amd64", "linux/arm/v7")
	pc.fails([]string{"Dockerfile:2", "exit code: 3"}, "build", "--platform", "linux/arm/v7", dir(t, map[string]string{
		"Dockerfile": "FROM debian:bookworm-slim\nRUN exit 3\n",
	}))
	slow := dir(t, map[string]string{
		"Dockerfile": "FROM debian:bookworm-slim\nRUN echo begun; sleep 5; dpkg --print-architecture > /arch\n",
	})
	build := pc.command("build", "--progress=plain", "--platform", "linux/arm/v7", "-t", "app", slow)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	said := func() string {
		data, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	build.Stdout, build.Stderr = log, log
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a node builds", func() error { return unless(strings.Contains(said(), " begun"), "%s", said()) })
	on, other := pi, second
	if strings.Contains(said(), "on node host3") {
		on, other = second, pi
	}
	on.kill()
	if err := build.Wait(); err != nil || !strings.Contains(said(), "on node "+other.name) {
		t.Errorf("the build after a node's end: %v\n%s", err, said())
	}
	other.kill() // two of three managers
	out, stderr, err := pc.try("build", "--progress=plain", "--no-cache", "--platform", "linux/arm/v7", "-t", "app", slow)
	if err != nil || !strings.Contains(stderr, "linux/arm/v7 is emulated here") {
		t.Errorf("the build without other nodes: %v\n%s%s", err, out, stderr)
	}
	on.start()
	other.start()
}
