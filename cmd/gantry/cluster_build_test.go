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
	build := func(args ...string) string {
		t.Helper()
		args = append([]string{"build", "--progress=plain", "--platform", both, "--secret", "id=word,src=" + filepath.Join(d, "word")}, args...)
		out, stderr, err := pc.try(append(args, d)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
		return out + stderr
	}
	out := build("-t", "app")
	if !strings.Contains(out, "on node host") || !strings.Contains(out, "[linux/arm/v7 made 4/4] RUN") {
		t.Errorf("it is not said where it was built:\n%s", out)
	}
	_ = pi
	_ = second
}
