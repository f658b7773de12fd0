package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// Each platform's image is pushed by its digest alone, as pipelines do that join them later.
func TestPushByDigest(t *testing.T) {
	g := newGantry(t)
	host := g.registry(false)
	meta := filepath.Join(t.TempDir(), "meta.json")
	g.run("build", "--platform", "linux/arm/v7", "--output", "type=image,name="+host+"/app,push-by-digest=true,name-canonical=true,push=true",
		"--metadata-file", meta, probe(t))
	dt, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Digest string `json:"containerimage.digest"`
		Name   string `json:"image.name"`
	}
	if err := json.Unmarshal(dt, &said); err != nil || said.Digest == "" {
		t.Fatalf("%v: %s", err, dt)
	}
	crane := need.File(t, "../../.cache/peers/crane", "peers")
	if out, err := exec.Command(crane, "digest", host+"/app@"+said.Digest).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != said.Digest {
		t.Errorf("in the registry: %v: %s", err, out)
	}
	if out, err := exec.Command(crane, "ls", host+"/app").Output(); err == nil && strings.TrimSpace(string(out)) != "" {
		t.Errorf("tags: %s", out)
	}
	if out := g.run("run", "--rm", "--platform", "linux/arm/v7", host+"/app@"+said.Digest, "arch"); out != "arm" {
		t.Errorf("it says %q", out)
	}
	g.fails([]string{"by digest"}, "build", "--output", "type=image,name="+host+"/app:1,push-by-digest=true,push=true", probe(t))
}

// What a failed step holds is not in use: du says so, and prune frees it.
func TestKeptStepsCanBePruned(t *testing.T) {
	g := newGantry(t)
	context := probe(t)
	file := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(file, []byte("FROM scratch\nCOPY amd64 /probe\nRUN [\"/probe\", \"exit\", \"3\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.fails([]string{"exit code: 3"}, "build", "-f", file, context)
	if kept := g.run("debug", "ls"); !strings.Contains(kept, "/probe") {
		t.Fatalf("no step is kept: %s", kept)
	}
	sizes := regexp.MustCompile(`Reclaimable:\s+(\S+)\nTotal:\s+(\S+)`)
	if m := sizes.FindStringSubmatch(g.run("du")); m == nil || m[1] != m[2] || m[1] == "0B" {
		t.Errorf("du: %q", m)
	}
	g.run("prune", "--all", "--force")
	if m := sizes.FindStringSubmatch(g.run("du")); m == nil || m[2] != "0B" {
		t.Errorf("du after prune: %q", m)
	}
}

// A step's log that is too long keeps its end.
func TestLongStepLog(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	g.run("daemon", "stop")
	g.env = append(g.env, "BUILDKIT_STEP_LOG_MAX_SIZE=100000")
	_, log, err := g.try("build", "--no-cache", dir(t, map[string]string{
		"Dockerfile": "FROM debian:bookworm-slim\nRUN seq 1000000 && echo the reason >&2 && exit 1\n",
	}))
	if err == nil || !strings.Contains(log, "the reason") || !strings.Contains(log, " 1000000\n") || !strings.Contains(log, "left out here") || !strings.Contains(log, " 5000\n") {
		t.Errorf("%v\n%s", err, tail(log, 30))
	}
	if strings.Contains(log, " 500000\n") || len(log) > 3_000_000 {
		t.Errorf("a log of %d bytes is not limited", len(log))
	}
}
