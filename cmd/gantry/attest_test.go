package main

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const spdx, slsa = "https://spdx.dev/Document", "https://slsa.dev/provenance/v1"

// statement is what there is to see of an attestation.
type statement struct {
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	Predicate struct {
		SPDXVersion string `json:"spdxVersion"`
		Packages    []struct {
			Name string `json:"name"`
		} `json:"packages"`
	} `json:"predicate"`
}

// fetch reads a manifest or blob out of a registry on this machine.
func fetch(t *testing.T, url string, v any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", strings.Join([]string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest}, ", "))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	dt, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v\n%s", url, resp.Status, err, dt)
	}
	if err := json.Unmarshal(dt, v); err != nil {
		t.Fatalf("GET %s: %v\n%s", url, err, dt)
	}
}

// referrersOf returns the statements that the repository lists for a manifest, by predicate type.
func referrersOf(t *testing.T, repository string, subject ocispec.Descriptor) map[string]statement {
	t.Helper()
	var listed ocispec.Index
	fetch(t, repository+"/manifests/"+strings.Replace(subject.Digest.String(), ":", "-", 1), &listed)
	found := map[string]statement{}
	for _, d := range listed.Manifests {
		var m ocispec.Manifest
		fetch(t, repository+"/manifests/"+d.Digest.String(), &m)
		if m.Subject == nil || m.Subject.Digest != subject.Digest {
			t.Errorf("%s refers to %v, not to %s", d.Digest, m.Subject, subject.Digest)
		}
		var s statement
		fetch(t, repository+"/blobs/"+m.Layers[0].Digest.String(), &s)
		if got := d.Annotations["in-toto.io/predicate-type"]; got != s.PredicateType {
			t.Errorf("the list says %q of a statement of type %q", got, s.PredicateType)
		}
		found[s.PredicateType] = s
	}
	return found
}

// Attestations need no image from a hub; they refer to the image's manifests, whose index stays as it
// would be without them, and travel with a later push.
func TestAttestations(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	host := g.registry(false)
	context := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN echo made > /made\n"})
	flags := []string{"--platform", both, "--provenance", "mode=max", "--sbom=true"}
	check := func(repository, tag string) {
		t.Helper()
		repository = host + "/v2/" + repository
		var idx ocispec.Index
		fetch(t, repository+"/manifests/"+tag, &idx)
		if len(idx.Manifests) != 2 {
			t.Fatalf("the index has %d manifests, not one for each platform", len(idx.Manifests))
		}
		for _, m := range idx.Manifests {
			all := referrersOf(t, repository, m)
			if len(all) != 2 {
				t.Fatalf("%s has %d attestations", m.Digest, len(all))
			}
			for _, s := range all {
				if len(s.Subject) == 0 || "sha256:"+s.Subject[0].Digest["sha256"] != m.Digest.String() {
					t.Errorf("the subject of %s is %v, not %s", s.PredicateType, s.Subject, m.Digest)
				}
			}
			libc := false
			for _, p := range all[spdx].Predicate.Packages {
				libc = libc || p.Name == "libc6"
			}
			if !libc || all[spdx].Predicate.SPDXVersion != "SPDX-2.3" {
				t.Errorf("the SBOM (%s) of %s does not have libc6", all[spdx].Predicate.SPDXVersion, m.Digest)
			}
		}
	}
	g.run(append(append([]string{"build", "-q", "--push", "-t", host + "/app:1"}, flags...), context)...)
	check("app", "1")

	g.run(append(append([]string{"build", "-q", "-t", host + "/later:1"}, flags...), context)...)
	g.run("push", "-q", host+"/later:1")
	check("later", "1")

	t.Run("in the index", func(t *testing.T) {
		g.run(append(append([]string{"build", "-q", "--attest-layout", "index", "--push", "-t", host + "/index:1"}, flags...), context)...)
		var idx ocispec.Index
		fetch(t, host+"/v2/index/manifests/1", &idx)
		n := 0
		for _, m := range idx.Manifests {
			if m.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
				n++
			}
		}
		if n != 2 || len(idx.Manifests) != 4 {
			t.Errorf("%d of %d manifests are attestations", n, len(idx.Manifests))
		}
	})
	t.Run("as files", func(t *testing.T) {
		out := t.TempDir()
		g.run("build", "-q", "--platform", "linux/amd64", "--sbom=true", "--provenance", "mode=min", "--output", out, context)
		for _, name := range []string{"sbom.spdx.json", "provenance.json"} {
			dt, err := os.ReadFile(filepath.Join(out, name))
			if err != nil {
				t.Fatal(err)
			}
			var s statement
			if err := json.Unmarshal(dt, &s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	g.fails([]string{"--attest-layout sideways", "referrers, index"}, "build", "--attest-layout", "sideways", context)
}

// A Dockerfile may want its stages and its context scanned, too, and an SBOM says which layer a file is from.
func TestSBOMOfStagesAndLayers(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	host := g.registry(false)
	context := dir(t, map[string]string{
		"Dockerfile": `ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
FROM debian:bookworm-slim AS tools
ARG BUILDKIT_SBOM_SCAN_STAGE=true
COPY a /usr/lib/node_modules/a/
COPY var /context/
FROM tools
COPY b /usr/lib/node_modules/b/
`,
		"a/package.json": `{"name":"a","version":"1.0.0"}`, "b/package.json": `{"name":"b","version":"1.0.0"}`,
		"var/lib/dpkg/status": "Package: ofcontext\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n",
	})
	out := t.TempDir()
	g.run("build", "-q", "--sbom=true", "--output", out, context)
	for file, want := range map[string]string{"sbom": "a b", "sbom-tools": "a", "sbom-context": "ofcontext"} {
		dt, err := os.ReadFile(filepath.Join(out, file+".spdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var s statement
		if err := json.Unmarshal(dt, &s); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range s.Predicate.Packages {
			if p.Name == "a" || p.Name == "b" || p.Name == "ofcontext" {
				names = append(names, p.Name)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s names %q, want %q", file, got, want)
		}
	}

	for _, layout := range []string{"referrers", "index"} {
		repository := host + "/v2/" + layout
		subject := g.run("build", "-q", "--sbom=true", "--attest-layout", layout, "--push", "-t", host+"/"+layout+":1", context)
		var listed ocispec.Index
		if layout == "index" {
			fetch(t, repository+"/manifests/1", &listed)
			subject, listed.Manifests = listed.Manifests[0].Digest.String(), listed.Manifests[1:]
		} else {
			fetch(t, repository+"/manifests/"+strings.Replace(subject, ":", "-", 1), &listed)
		}
		var image ocispec.Manifest
		fetch(t, repository+"/manifests/"+subject, &image)
		want := map[string]string{}
		for i, file := range map[int]string{0: "/var/lib/dpkg/status", 1: "/usr/lib/node_modules/a/package.json",
			3: "/usr/lib/node_modules/b/package.json"} {
			want[file] = "layerID: " + image.Layers[i].Digest.String()
		}
		if got := filesOfSBOM(t, repository, listed); !maps.Equal(got, want) {
			t.Errorf("%s: the files' layers are\n%v\nwant\n%v", layout, got, want)
		}
	}
}

// filesOfSBOM are the comments of files in the SBOM of an image itself, which is one of those listed.
func filesOfSBOM(t *testing.T, repository string, listed ocispec.Index) map[string]string {
	t.Helper()
	for _, d := range listed.Manifests {
		var m ocispec.Manifest
		fetch(t, repository+"/manifests/"+d.Digest.String(), &m)
		for _, l := range m.Layers {
			var s struct {
				Predicate struct {
					Name  string                               `json:"name"`
					Files []struct{ FileName, Comment string } `json:"files"`
				} `json:"predicate"`
			}
			fetch(t, repository+"/blobs/"+l.Digest.String(), &s)
			if s.Predicate.Name != "sbom" {
				continue
			}
			got := map[string]string{}
			for _, f := range s.Predicate.Files {
				got[f.FileName] = f.Comment
			}
			return got
		}
	}
	t.Errorf("%s: no SBOM of the image itself", repository)
	return nil
}

// The result that is scanned is the one that was built, also where nothing but the build's platform says
// which that is: no step runs again, and none on the wrong processor.
func TestSBOMRunsNoStepAgain(t *testing.T) {
	g := newGantry(t)
	context := probe(t)
	file := filepath.Join(t.TempDir(), "Dockerfile")
	text := "FROM scratch AS a\nARG TARGETARCH\nCOPY ${TARGETARCH} /probe\nRUN [\"/probe\", \"say\", \"once\"]\nFROM a\nRUN [\"/probe\", " +
		"\"say\", \"twice\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, log, err := g.try("build", "--platform", both, "--sbom=true", "-f", file, context)
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(log, 40))
	}
	if strings.Count(log, " once\n") != 2 || strings.Count(log, " twice\n") != 2 {
		t.Errorf("each step should run once for each platform:\n%s", log)
	}
}
