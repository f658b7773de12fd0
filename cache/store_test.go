package cache

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/need"
)

// library is a store with images made by hand.
type library struct {
	*Store
	t   *testing.T
	ctx context.Context // with a lease: nothing is collected while it is being put together
}

func newLibrary(t *testing.T) library {
	need.Root(t)
	dir, err := os.MkdirTemp("/tmp", "") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := Start(t.Context(), Options{Root: dir + "/r", State: dir + "/s", Shim: "/bin/false", Runc: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, _, err := s.Client.WithLease(WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return library{s, t, ctx}
}

func (l library) blob(media string, v any, labels map[string]string) ocispec.Descriptor {
	l.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		data, _ = json.Marshal(v)
	}
	d := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := content.WriteBlob(l.ctx, l.Client.ContentStore(), d.Digest.String(), bytes.NewReader(data), d, content.WithLabels(labels))
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

// layer is one file as a compressed layer, and its diff ID.
func (l library) layer(name, text string) (ocispec.Descriptor, digest.Digest) {
	l.t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	z := gzip.NewWriter(&packed)
	if err == nil {
		_, err = z.Write(plain.Bytes())
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(ocispec.MediaTypeImageLayerGzip, packed.Bytes(), nil), digest.FromBytes(plain.Bytes())
}

// manifest is an image for a platform; its layers and diff IDs need not fit.
func (l library) manifest(platform string, layers []ocispec.Descriptor, diffs []digest.Digest) ocispec.Descriptor {
	l.t.Helper()
	p := platforms.MustParse(platform)
	cfg := l.blob(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffs}}, nil)
	refs := map[string]string{"containerd.io/gc.ref.content.config": cfg.Digest.String()}
	for i, d := range layers {
		refs["containerd.io/gc.ref.content.l."+string(rune('0'+i))] = d.Digest.String()
	}
	d := l.blob(ocispec.MediaTypeImageManifest,
		ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: cfg, Layers: layers}, refs)
	d.Platform = &p
	return d
}

func (l library) name(name string, target ocispec.Descriptor) {
	l.t.Helper()
	if _, err := l.Client.ImageService().Create(l.ctx, images.Image{Name: name, Target: target}); err != nil {
		l.t.Fatal(err)
	}
}

var host = "linux/" + runtime.GOARCH

func TestOpen(t *testing.T) {
	l := newLibrary(t)
	a, diffA := l.layer("a", "1")
	b, diffB := l.layer("b", "2")
	native := l.manifest(host, []ocispec.Descriptor{a, b}, []digest.Digest{diffA, diffB})
	foreign := l.manifest("linux/s390x", []ocispec.Descriptor{a}, []digest.Digest{diffA})
	l.name("docker.io/library/app:1",
		l.blob(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{foreign, native}}, map[string]string{
			"containerd.io/gc.ref.content.m.0": native.Digest.String(), "containerd.io/gc.ref.content.m.1": foreign.Digest.String(),
		}))
	l.name("docker.io/library/only:1", foreign)
	for _, c := range []struct{ ref, platform, want string }{
		{"app:1", "", host}, {"docker.io/library/app:1", host, host}, {"app:1", "linux/s390x", "linux/s390x"},
		{"only:1", "", "linux/s390x"},
	} {
		var p *ocispec.Platform
		if c.platform != "" {
			parsed := platforms.MustParse(c.platform)
			p = &parsed
		}
		img, err := l.Open(t.Context(), c.ref, p)
		if err != nil || platforms.Format(img.Platform) != c.want || img.Snapshot == "" {
			t.Errorf("%s for %q: %+v, %v", c.ref, c.platform, img, err)
		}
	}
	riscv := platforms.MustParse("linux/riscv64")
	if _, err := l.Open(t.Context(), "app:1", &riscv); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("a platform that is not there: %v", err)
	}
	if _, err := l.Open(t.Context(), "none", nil); !errdefs.IsNotFound(err) {
		t.Errorf("an image that is not there: %v", err)
	}
}

// An image whose layers are not those that its configuration names is refused, also when the snapshots
// that the configuration names are there already.
func TestForgedImagesAreRefused(t *testing.T) {
	l := newLibrary(t)
	a, diffA := l.layer("a", "1")
	b, diffB := l.layer("b", "2")
	l.name("docker.io/library/good:1", l.manifest(host, []ocispec.Descriptor{a, b}, []digest.Digest{diffA, diffB}))
	for _, seen := range []bool{false, true} {
		for name, m := range map[string]ocispec.Descriptor{
			"swapped": l.manifest(host, []ocispec.Descriptor{b, a}, []digest.Digest{diffA, diffB}),
			"fewer":   l.manifest(host, []ocispec.Descriptor{a, b}, []digest.Digest{diffA}),
			"more":    l.manifest(host, []ocispec.Descriptor{a}, []digest.Digest{diffA, diffB}),
			"other":   l.manifest(host, []ocispec.Descriptor{b}, []digest.Digest{diffA}),
		} {
			ref := "docker.io/library/" + name + ":" + map[bool]string{false: "1", true: "2"}[seen]
			l.name(ref, m)
			if img, err := l.Open(t.Context(), ref, nil); err == nil {
				t.Errorf("%s was opened as %s", ref, img.Snapshot)
			}
		}
		if _, err := l.Open(t.Context(), "good:1", nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLookup(t *testing.T) {
	l := newLibrary(t)
	a, diff := l.layer("a", "1")
	m := l.manifest(host, []ocispec.Descriptor{a}, []digest.Digest{diff})
	l.name("docker.io/library/app:latest", m)
	l.name("registry.lan:5000/team/app:v1", m)
	id := m.Digest.Encoded()
	for ref, want := range map[string]string{
		"app": "docker.io/library/app:latest", "library/app:latest": "docker.io/library/app:latest",
		"registry.lan:5000/team/app:v1": "registry.lan:5000/team/app:v1",
		"app@" + m.Digest.String():      "docker.io/library/app:latest", id: "docker.io/library/app:latest",
		id[:12]:            "docker.io/library/app:latest",
		"sha256:" + id[:6]: "docker.io/library/app:latest",
	} {
		if img, err := l.Lookup(t.Context(), ref); err != nil || img.Name != want {
			t.Errorf("%s is %s, %v", ref, img.Name, err)
		}
	}
	for _, ref := range []string{"app:2", "ap", "registry.lan:5000/team/app", "0000000000"} {
		if img, err := l.Lookup(t.Context(), ref); !errdefs.IsNotFound(err) {
			t.Errorf("%s is %s, %v", ref, img.Name, err)
		}
	}
}

func TestLock(t *testing.T) {
	root := t.TempDir()
	unlock, err := Lock(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(root); err == nil || !strings.Contains(err.Error(), ErrLocked.Error()) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	again, err := Lock(root)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
