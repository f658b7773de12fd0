package attest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/registry"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"

	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/solver/result"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/cache/cachetest"
)

// subject is the manifest of an image in a store, which is held while the test runs.
func subject(t *testing.T) (context.Context, *cache.Store, ocispec.Descriptor) {
	t.Helper()
	s := cachetest.Start(t)
	ctx, _, err := s.Client.WithLease(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	p := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON}
	d, err := blob.Write(ctx, s.Client.ContentStore(), ocispec.Descriptor{MediaType: m.MediaType, Platform: &p}, m)
	if err != nil {
		t.Fatal(err)
	}
	return ctx, s, d
}

// saying is an attestation with a predicate of a type.
func saying(predicateType, predicate string) exporter.Attestation {
	return exporter.Attestation{
		Kind: gatewayapi.AttestationKind_InToto, Path: predicateType + ".json",
		InToto:      result.InTotoAttestation{PredicateType: predicateType},
		ContentFunc: func(context.Context) ([]byte, error) { return []byte(predicate), nil },
	}
}

// Each statement is an artifact about the manifest, found by it, and replaced by the next build's.
func TestStatementsReferToTheImage(t *testing.T) {
	ctx, s, image := subject(t)
	cs := s.Client.ContentStore()
	names := []string{"docker.io/library/app:1"}
	two := []exporter.Attestation{saying("https://one", `{"a":1}`), saying("https://two", `{"b":2}`)}
	written, err := Write(ctx, cs, nil, two, names, image)
	if err != nil || len(written) != 2 {
		t.Fatalf("%+v, %v", written, err)
	}
	found, err := Of(ctx, cs, image.Digest)
	if err != nil || len(found) != 2 {
		t.Fatalf("found %+v, %v", found, err)
	}
	for _, d := range written {
		m, err := blob.Manifest(ctx, cs, d)
		if err != nil || m.Subject == nil || m.Subject.Digest != image.Digest || m.ArtifactType != intoto.PayloadType ||
			len(m.Layers) != 1 {
			t.Fatalf("%+v, %v", m, err)
		}
		text, err := content.ReadBlob(ctx, cs, m.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			PredicateType string
			Subject       []struct{ Name string }
		}
		if err := json.Unmarshal(text, &said); err != nil || said.PredicateType != d.Annotations[predicateType] {
			t.Errorf("%s, annotated %v: %v", text, d.Annotations, err)
		}
		if len(said.Subject) != 1 || !strings.Contains(said.Subject[0].Name, "app@1?platform=linux%2Farm64") {
			t.Errorf("it is about %+v", said.Subject)
		}
	}
	if _, err := s.DB.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := Write(ctx, cs, nil, two[:1], names, image)
	if err != nil || len(again) != 1 || again[0].Digest != written[0].Digest {
		t.Errorf("the same statement is %+v, then %+v, %v", written[0], again, err)
	}
	if found, err = Of(ctx, cs, image.Digest); err != nil || len(found) != 1 || found[0].Digest != again[0].Digest ||
		found[0].Size != again[0].Size {
		t.Errorf("found %+v, %v; want %+v", found, err, again)
	}
}

// A registry without the referrers API lists them under a tag; nothing of what it lists is lost.
func TestListKeepsWhatIsListed(t *testing.T) {
	ctx, s, image := subject(t)
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer hub.Close()
	repository := strings.TrimPrefix(hub.URL, "http://") + "/team/app"
	r := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
	cs := s.Client.ContentStore()
	for i, kind := range []string{"https://one", "https://two", "https://one"} {
		d, err := Write(ctx, cs, nil, []exporter.Attestation{saying(kind, `{}`)}, nil, image)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Client.Push(ctx, repository, d[0], client.WithResolver(r)); err != nil {
			t.Fatal(err)
		}
		if err := List(ctx, r, repository, image.Digest, d); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	tag := repository + ":" + strings.Replace(image.Digest.String(), ":", "-", 1)
	_, top, err := r.Resolve(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.Fetcher(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	body, err := f.Fetch(ctx, top)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	var idx ocispec.Index
	if err := json.NewDecoder(body).Decode(&idx); err != nil || len(idx.Manifests) != 2 {
		t.Errorf("%+v, %v", idx.Manifests, err)
	}
}

// tarOf is a layer with empty files of these names.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A file of an SBOM is said to be from the last layer that has it, unless something is said of it already.
func TestLayersOfFiles(t *testing.T) {
	ctx, s, _ := subject(t)
	var layers []ocispec.Descriptor
	for _, dt := range [][]byte{tarOf(t, "bin/a", "bin/b"), tarOf(t, "./bin/b", "bin/c")} {
		d, err := blob.Put(ctx, s.Client.ContentStore(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}, dt)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, d)
	}
	sbom := saying(intoto.PredicateSPDX,
		`{"files":[{"fileName":"/bin/a"},{"fileName":"bin/b"},{"fileName":"/bin/c","comment":"mine"},{"fileName":"/x"}]}`)
	sbom.Path, sbom.Metadata = "core.spdx.json", map[string][]byte{result.AttestationSBOMCore: []byte("core")}
	other := saying("https://other", `{"files":[{"fileName":"/bin/a"}]}`)
	out, err := Layered(ctx, nil, []exporter.Attestation{sbom, other}, s.Client.ContentStore(), layers)
	if err != nil || len(out) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	text, err := out[0].ContentFunc(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Files []struct{ FileName, Comment string }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"/bin/a": "layerID: " + layers[0].Digest.String(), "bin/b": "layerID: " + layers[1].Digest.String(), "/bin/c": "mine", "/x": "",
	}
	for _, f := range doc.Files {
		if f.Comment != want[f.FileName] {
			t.Errorf("%s: %q, want %q", f.FileName, f.Comment, want[f.FileName])
		}
	}
	if text, _ = out[1].ContentFunc(ctx); strings.Contains(string(text), "layerID") {
		t.Errorf("another statement was changed: %s", text)
	}
}
