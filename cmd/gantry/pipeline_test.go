package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/need"
)

// Each platform's image is pushed by its digest alone, as pipelines do that join them later.
func TestPushByDigest(t *testing.T) {
	g := newGantry(t)
	host := g.registry(false)
	meta := filepath.Join(t.TempDir(), "meta.json")
	g.run("build", "--platform", "linux/arm/v7", "--output",
		"type=image,name="+host+"/app,push-by-digest=true,name-canonical=true,push=true",
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
	if out, err := exec.Command(crane, "digest", host+"/app@"+said.Digest).CombinedOutput(); err != nil ||
		strings.TrimSpace(string(out)) != said.Digest {
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
	if err == nil || !strings.Contains(log, "the reason") || !strings.Contains(log, " 1000000\n") ||
		!strings.Contains(log, "left out here") || !strings.Contains(log, " 5000\n") {
		t.Errorf("%v\n%s", err, tail(log, 30))
	}
	if strings.Contains(log, " 500000\n") || len(log) > 3_000_000 {
		t.Errorf("a log of %d bytes is not limited", len(log))
	}
}

// The cache of a build and its image have the same layers, so a registry keeps them once, and a build from
// that cache, on another machine, gives the same layers again: with one export, and with two.
func TestCacheSharesLayersWithTheImage(t *testing.T) {
	g := newGantry(t)
	host := g.registry(false)
	context := dir(t, map[string]string{
		"Dockerfile": "FROM scratch AS a\nCOPY f /f\nFROM scratch\nCOPY --from=a /f /g\nCOPY h /h\n",
		"f":          strings.Repeat("f", 9999), "h": strings.Repeat("h", 9999),
	})
	layers := func(ref string) (digests []string) {
		var m ocispec.Manifest
		repository, tag, _ := strings.Cut(ref, ":")
		fetch(t, host+"/v2/"+repository+"/manifests/"+tag, &m)
		for _, l := range m.Layers {
			digests = append(digests, l.Digest.String())
		}
		return digests
	}
	for name, exports := range map[string][]string{
		"registry": {"--cache-to", "type=registry,mode=max,ref=" + host + "/registry:cache"},
		"both":     {"--cache-to", "type=registry,mode=max,ref=" + host + "/both:cache", "--cache-to", "type=inline"},
		"inline":   {"--cache-to", "type=inline"},
	} {
		t.Run(name, func(t *testing.T) {
			ref := host + "/" + name
			g.run(append(append([]string{"build", "-q", "--no-cache", "--push", "-t", ref + ":image"}, exports...), context)...)
			image := layers(name + ":image")
			from := ref + ":image"
			if name != "inline" {
				from = ref + ":cache"
				for _, l := range image {
					if cached := layers(name + ":cache"); !slices.Contains(cached, l) {
						t.Errorf("layer %s of the image is not among those of the cache, %v", l, cached)
					}
				}
			}
			other := newGantry(t)
			other.run("build", "-q", "--push", "-t", ref+":again", "--cache-from", "type=registry,ref="+from, "--cache-to",
				"type=inline", context)
			if again := layers(name + ":again"); !slices.Equal(again, image) {
				t.Errorf("from the cache the layers are %v, were %v", again, image)
			}
		})
	}
}
