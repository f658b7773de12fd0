package blob_test

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/cache/cachetest"
)

// opened is an empty store, and a context under which nothing in it is collected.
func opened(t *testing.T) (context.Context, *cache.Store, content.Store) {
	t.Helper()
	s := cachetest.Start(t)
	ctx, _, err := s.Client.WithLease(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, s, s.Client.ContentStore()
}

func put(t *testing.T, ctx context.Context, cs content.Store, text string) ocispec.Descriptor {
	t.Helper()
	d, err := blob.Put(ctx, cs, ocispec.Descriptor{}, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What is written is read back, with its descriptor, and keeps what it refers to when the collector runs.
func TestWrittenIsReadAndKeepsItsParts(t *testing.T) {
	ctx, s, cs := opened(t)
	p := ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	config, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig}, ocispec.Image{Platform: p})
	if err != nil {
		t.Fatal(err)
	}
	layer, lost := put(t, ctx, cs, "a layer"), put(t, ctx, cs, "in nobody's manifest")
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}}
	said := map[string]string{"k": "v"}
	manifest, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: m.MediaType, Platform: &p, Annotations: said}, m, config, layer)
	if err != nil || manifest.Platform != &p || manifest.Annotations["k"] != "v" || manifest.Size == 0 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest}}
	top, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: idx.MediaType}, idx, manifest)
	if err != nil {
		t.Fatal(err)
	}

	// Only the index is held from now on.
	fresh := cache.WithNamespace(t.Context())
	if err := blob.Label(fresh, cs, top.Digest, map[string]string{"containerd.io/gc.root": "now"}); err != nil {
		t.Fatal(err)
	}
	all, err := s.Client.LeasesService().List(fresh)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if err := s.Client.LeasesService().Delete(fresh, l); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.DB.GarbageCollect(fresh); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.Info(fresh, lost.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the collector took nothing: %v", err)
	}
	gotIdx, err := blob.Index(fresh, cs, top)
	if err != nil || len(gotIdx.Manifests) != 1 {
		t.Fatalf("%+v, %v", gotIdx, err)
	}
	got, err := blob.Manifest(fresh, cs, gotIdx.Manifests[0])
	if err != nil || got.Config.Digest != config.Digest || got.Layers[0].Digest != layer.Digest {
		t.Fatalf("%+v, %v", got, err)
	}
	cfg, raw, err := blob.Config(fresh, cs, got.Config)
	if err != nil || cfg.Variant != "v7" || digest.FromBytes(raw) != config.Digest {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, err := cs.Info(fresh, layer.Digest); err != nil {
		t.Errorf("the layer has gone: %v", err)
	}
}

// A blob that was there before gets the labels that keep what it now refers to.
func TestSecondWriterKeepsItsParts(t *testing.T) {
	ctx, _, cs := opened(t)
	part, text := put(t, ctx, cs, "part"), []byte(`{"schemaVersion":2}`)
	for _, refs := range [][]ocispec.Descriptor{nil, {part}} {
		d, err := blob.Put(ctx, cs, ocispec.Descriptor{}, text, refs...)
		if err != nil {
			t.Fatal(err)
		}
		info, err := cs.Info(ctx, d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Labels["containerd.io/gc.ref.content.0"]; len(refs) > 0 && got != part.Digest.String() {
			t.Errorf("its reference is %q", got)
		}
	}
}

// Bad input is refused by name, with the kind of the error.
func TestRefusals(t *testing.T) {
	ctx, _, cs := opened(t)
	huge := put(t, ctx, cs, `{"x":"`+strings.Repeat("x", blob.MaxSize)+`"}`)
	entries := put(t, ctx, cs, `{"manifests":[`+strings.Repeat("{},", blob.MaxEntries)+`{}]}`)
	most := put(t, ctx, cs, `{"manifests":[`+strings.Repeat("{},", blob.MaxEntries-1)+`{}]}`)
	text, list := put(t, ctx, cs, "not JSON"), put(t, ctx, cs, `[]`)
	gone := ocispec.Descriptor{Digest: digest.FromString("gone"), Size: 4}
	reads := map[string]func(ocispec.Descriptor) error{
		"index":    func(d ocispec.Descriptor) error { _, err := blob.Index(ctx, cs, d); return err },
		"manifest": func(d ocispec.Descriptor) error { _, err := blob.Manifest(ctx, cs, d); return err },
		"config":   func(d ocispec.Descriptor) error { _, _, err := blob.Config(ctx, cs, d); return err },
	}
	for what, read := range reads {
		for _, bad := range []ocispec.Descriptor{huge, text, list} {
			if err := read(bad); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), what+" "+bad.Digest.String()) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := read(gone); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), gone.Digest.String()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := blob.Index(ctx, cs, entries); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an index of %d: %v", blob.MaxEntries+1, err)
	}
	if idx, err := blob.Index(ctx, cs, most); err != nil || len(idx.Manifests) != blob.MaxEntries {
		t.Errorf("an index of %d: %v", blob.MaxEntries, err)
	}
}
