package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/need"
)

// built is what is to be compared of an image: of each platform the config, what is in each layer, and
// the LLB that it was made of. Time stamps are left out.
type built map[string]map[string]string

// Each Dockerfile below testdata/dockerfiles gives the same image through gantry, and through BuildKit's
// and Docker's own clients with gantry as their builder, as it does with buildkitd.
func TestMatrix(t *testing.T) {
	cases, err := filepath.Glob("../../testdata/dockerfiles/*/Dockerfile")
	if err != nil || len(cases) < 40 {
		t.Fatalf("%d Dockerfiles: %v", len(cases), err)
	}
	h := newHub(t)
	g := h.gantry()
	p := &peer{b: t, hub: h}
	p.start()
	t.Cleanup(p.stop)
	g.run("info")
	socket := g.status().Socket
	c := newClient(t, g)
	c.run("docker", "buildx", "create", "--name", "matrix", "--driver", "remote", "unix://"+socket)
	docker := []string{"DOCKER_CONFIG=" + c.config, "DOCKER_HOST=unix://" + socket}
	for _, file := range cases {
		d := filepath.Dir(file)
		t.Run(filepath.Base(d), func(t *testing.T) {
			m := matrixCase{t, d, flagsOf(t, d)}
			want := m.buildctl(p.addr())
			same(t, "gantry build", m.buildx(g.bin, g.env, "build"), want)
			same(t, "buildctl", m.buildctl("unix://"+socket), want)
			same(t, "docker buildx", m.buildx("../../.cache/peers/docker", docker, "buildx", "build", "--builder", "matrix"), want)
		})
	}
}

func same(t *testing.T, client string, got, want built) {
	t.Helper()
	if len(got) != len(want) || len(want) == 0 {
		t.Errorf("%s built %d platforms, buildkitd %d", client, len(got), len(want))
	}
	for platform, parts := range want {
		for part, text := range parts {
			if got[platform][part] != text {
				t.Errorf("%s, %s, %s (-buildkitd +gantry):\n%s",
					client, platform, part, cmp.Diff(strings.Split(text, "\n"), strings.Split(got[platform][part], "\n")))
			}
		}
		if len(got[platform]) != len(parts) {
			t.Errorf("%s, %s: %d layers and parts, buildkitd's %d", client, platform, len(got[platform]), len(parts))
		}
	}
}

type matrixCase struct {
	t     *testing.T
	dir   string
	flags [][2]string
}

// flagsOf reads the file flags of a case: build's flags without the dashes, one a line.
func flagsOf(t *testing.T, dir string) (flags [][2]string) {
	dt, err := os.ReadFile(filepath.Join(dir, "flags"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(dt)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			t.Fatalf("%s/flags: %q is not flag=value", dir, line)
		}
		if k == "secret" {
			v = strings.Replace(v, "src=", "src="+dir+"/", 1)
		}
		flags = append(flags, [2]string{k, v})
	}
	return flags
}

func (m matrixCase) buildx(program string, env []string, verb ...string) built {
	m.t.Helper()
	out := filepath.Join(m.t.TempDir(), "oci.tar")
	args := append(verb, "--progress", "plain", "--provenance", "mode=max", "--output", "type=oci,dest="+out)
	for _, f := range m.flags {
		args = append(args, "--"+f[0], f[1])
	}
	return m.made(out, env, program, append(args, m.dir)...)
}

func (m matrixCase) buildctl(addr string) built {
	m.t.Helper()
	out := filepath.Join(m.t.TempDir(), "oci.tar")
	args := []string{
		"--addr", addr, "build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + m.dir, "--local",
		"dockerfile=" + m.dir,
		"--opt", "attest:provenance=mode=max", "--output", "type=oci,dest=" + out,
	}
	for _, f := range m.flags {
		switch f[0] {
		case "secret":
			args = append(args, "--secret", f[1])
		case "build-arg", "label":
			args = append(args, "--opt", f[0]+":"+f[1])
		default:
			args = append(args, "--opt", f[0]+"="+f[1])
		}
	}
	return m.made(out, nil, need.File(m.t, "../../.cache/peers/buildctl", "peers"), args...)
}

func (m matrixCase) made(out string, env []string, program string, args ...string) built {
	m.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	if said, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%s %v: %v\n%s", program, args, err, tail(string(said), 40))
	}
	files := readTar(m.t, out)
	var top, idx ocispec.Index
	parse(m.t, files["index.json"], &top)
	if idx = top; top.Manifests[0].MediaType == ocispec.MediaTypeImageIndex {
		idx = ocispec.Index{}
		parse(m.t, blob(files, top.Manifests[0]), &idx)
	}
	b := built{}
	subjects := map[string]string{}
	for _, d := range idx.Manifests {
		var man ocispec.Manifest
		parse(m.t, blob(files, d), &man)
		if of := d.Annotations["vnd.docker.reference.digest"]; of != "" {
			b[subjects[of]]["LLB"] = llbOf(m.t, blob(files, man.Layers[0]))
			continue
		}
		var p ocispec.Platform // an image of no steps is the whole result, which has no list of platforms
		parse(m.t, blob(files, man.Config), &p)
		platform := platforms.Format(p)
		subjects[d.Digest.String()] = platform
		b[platform] = map[string]string{"config": configOf(m.t, blob(files, man.Config))}
		for i, l := range man.Layers {
			b[platform][fmt.Sprint("layer ", i)] = layerOf(m.t, blob(files, l))
		}
	}
	return b
}

func blob(files map[string][]byte, d ocispec.Descriptor) []byte {
	return files["blobs/"+string(d.Digest.Algorithm())+"/"+d.Digest.Encoded()]
}

func parse(t *testing.T, dt []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(dt, v); err != nil {
		t.Fatalf("%v in %q", err, dt)
	}
}

func indented(t *testing.T, v any) string {
	t.Helper()
	dt, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(dt)
}

func readTar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// configOf is an image's config without its times, and without the digests of layers, which have times.
func configOf(t *testing.T, dt []byte) string {
	t.Helper()
	var v map[string]any
	parse(t, dt, &v)
	delete(v, "created")
	delete(v, "rootfs")
	if all, ok := v["history"].([]any); ok {
		for _, h := range all {
			delete(h.(map[string]any), "created")
		}
	}
	return indented(t, v)
}

// layerOf lists a layer, a line for each file.
func layerOf(t *testing.T, dt []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(dt))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		sum := sha256.New()
		if err == nil {
			_, err = io.Copy(sum, r)
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %c %o %d:%d %d %q %x", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size,
			h.Linkname, sum.Sum(nil)[:8]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// llbOf is the LLB in a provenance statement, its ops sorted by their text, without what a session adds.
func llbOf(t *testing.T, dt []byte) string {
	t.Helper()
	var s struct {
		Predicate struct {
			BuildDefinition struct {
				InternalParameters struct {
					BuildConfig struct {
						Steps []map[string]any `json:"llbDefinition"`
					} `json:"buildConfig"`
				} `json:"internalParameters"`
			} `json:"buildDefinition"`
		} `json:"predicate"`
	}
	parse(t, dt, &s)
	var steps []string
	for _, step := range s.Predicate.BuildDefinition.InternalParameters.BuildConfig.Steps {
		delete(step, "id")     // numbers in the order of the ops' digests, which hold the session's ID
		delete(step, "inputs") // the same numbers
		steps = append(steps, indented(t, withoutSession(step)))
	}
	slices.Sort(steps)
	return strings.Join(steps, "\n")
}

func withoutSession(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, sub := range v {
			// A client like Docker's says that local images come first.
			if k == "image.resolvemode" || k == "local.session" || k == "local.unique" || k == "local.sharedkeyhint" || k == "digest" {
				delete(v, k)
				continue
			}
			if v[k] = withoutSession(sub); k == "attrs" && len(v[k].(map[string]any)) == 0 {
				delete(v, k)
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutSession(v[i])
		}
	}
	return v
}
