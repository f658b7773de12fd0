package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// What was handed out for an image finds it for ever: an ID file, a container's Image, the history. What a registry
// calls it, is the digest that push says, that the registry has and that inspect shows, and there is none before.
func TestImageKeepsItsID(t *testing.T) {
	g := newGantry(t)
	host := g.registry(false)
	ref, iidfile := host+"/probe:1", filepath.Join(t.TempDir(), "iid")
	g.run("build", "-q", "--platform", "linux/amd64,linux/arm/v7", "--iidfile", iidfile, "-t", ref, probe(t))
	iid, err := os.ReadFile(iidfile)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(string(iid))
	g.run("create", "--name", "user", ref)
	inspect := func(of, format string) string {
		t.Helper()
		return g.output("image", "inspect", "--format", format, of)
	}
	if got := inspect(id, "{{.RepoDigests}}"); got != "[]" {
		t.Errorf("a digest that no registry has: %s", got)
	}
	pushed := g.run("push", ref)
	_, digest, ok := strings.Cut(pushed, "digest: ")
	digest, _, _ = strings.Cut(digest, " ")
	there, err := exec.Command(need.Tool(t, "skopeo"), "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+ref).Output()
	if !ok || err != nil || strings.TrimSpace(string(there)) != digest {
		t.Errorf("pushed %q, the registry has %s, %v", pushed, there, err)
	}
	g.run("save", "-o", filepath.Join(t.TempDir(), "a.tar"), ref)
	if out := g.run("pull", ref); !strings.Contains(out, "Image is up to date") || !strings.Contains(out, digest) {
		t.Errorf("%s", out)
	}
	container := g.output("inspect", "--format", "{{.Image}}", "user")
	history := g.output("history", "-q", "--no-trunc", ref)
	for what, of := range map[string]string{
		"ID file": id, "name": ref, "short": id[7:19], "digest": host + "/probe@" + digest, "container": container,
		"history": strings.Fields(history)[0],
	} {
		if got := inspect(of, "{{.ID}} {{.RepoDigests}}"); got != id+" ["+host+"/probe@"+digest+"]" {
			t.Errorf("by its %s %s it is %s", what, of, got)
		}
	}
	g.run("image", "prune", "-a", "-f")
	g.fails([]string{"is using its referenced image"}, "rmi", ref)
	g.run("rmi", "-f", ref)
	if got := inspect(container, "{{.ID}} {{.RepoTags}}"); got != id+" []" {
		t.Errorf("a container's image without its name is %s", got)
	}
	g.run("rm", "user")
	g.run("image", "prune", "-f")
	g.fails([]string{"No such image"}, "image", "inspect", id)

	// Built and pushed at once, all agree from the start, the metadata file, too.
	file := filepath.Join(t.TempDir(), "metadata")
	g.run("build", "-q", "--push", "--metadata-file", file, "-t", ref, probe(t))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(data, &said); err != nil {
		t.Fatal(err)
	}
	there, err = exec.Command("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+ref).Output()
	if got := inspect(ref, "{{.ID}} {{.RepoDigests}}"); err != nil || got != said.Digest+" ["+host+"/probe@"+said.Digest+"]" ||
		strings.TrimSpace(string(there)) != said.Digest {
		t.Errorf("the metadata file says %s, inspect %s, the registry %s, %v", said.Digest, got, there, err)
	}
}

// Others read what save writes, and platforms are heeded on both ways.
func TestSavedImagesAreReadByOthers(t *testing.T) {
	g, other := newGantry(t), newGantry(t)
	g.run("build", "-q", "--platform", "linux/amd64,linux/arm/v7", "-t", "probe:1", probe(t))
	archive := filepath.Join(t.TempDir(), "a.tar")
	arch := func() string {
		t.Helper()
		out, err := exec.Command(need.Tool(t, "skopeo"), "inspect", "--format", "{{.Architecture}}",
			"docker-archive:"+archive).CombinedOutput()
		if err != nil {
			t.Errorf("skopeo: %v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	g.run("save", "-o", archive, "probe:1")
	if got := arch(); got != "amd64" {
		t.Errorf("of two platforms skopeo finds %s", got)
	}
	other.fails([]string{"linux/s390x", "linux/arm/v7"}, "load", "--platform", "linux/s390x", "-i", archive)
	other.run("load", "--platform", "linux/arm/v7", "-i", archive)
	other.fails([]string{"linux/amd64"}, "save", "--platform", "linux/amd64", "-o", archive+"2", "probe:1")
	if _, err := os.Stat(archive + "2"); err == nil {
		t.Error("an archive of nothing is left")
	}
	g.run("save", "--platform", "linux/arm/v7", "-o", archive, "probe:1")
	if got := arch(); got != "arm" {
		t.Errorf("saved for arm/v7, skopeo finds %s", got)
	}
}
