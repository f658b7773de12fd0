package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// testcontainers-go builds, starts, waits for, looks into and ends containers as with Docker.
func TestTestcontainers(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	c := newClient(t, g)
	cmd := exec.Command("go", "test", "-count=1", "-timeout=5m", "-v", ".")
	cmd.Dir = "../../testdata/testcontainers"
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0", "DOCKER_HOST=unix://"+c.socket, "DOCKER_CONFIG="+c.config,
		"TESTCONTAINERS_RYUK_DISABLED=true", "PROBE="+probe(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(string(out), 120))
	}
	for _, name := range []string{"TestServer", "TestFilesCommandsAndLogs", "TestNetwork", "TestExit"} {
		if !strings.Contains(string(out), "--- PASS: "+name) {
			t.Errorf("%s did not run:\n%s", name, out)
		}
	}
}
