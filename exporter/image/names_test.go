package image

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/cache/cachetest"
)

// Configs are found by their layers, also those of platforms that share all of them.
func TestConfigsOfAnIndex(t *testing.T) {
	s := cachetest.Start(t)
	ctx, _, err := s.Client.WithLease(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	cs := s.Client.ContentStore()
	one, two := digest.FromString("one"), digest.FromString("two")
	var idx ocispec.Index
	configs := map[string]digest.Digest{}
	for arch, diffIDs := range map[string][]digest.Digest{"amd64": {one, two}, "arm64": {one, two}, "arm": {two, one}, "386": nil} {
		cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, RootFS: ocispec.RootFS{DiffIDs: diffIDs}}
		c, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		configs[arch] = c.Digest
		m, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest},
			ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: c}, c)
		if err != nil {
			t.Fatal(err)
		}
		idx.Manifests = append(idx.Manifests, m)
	}
	top, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex}, idx, idx.Manifests...)
	if err != nil {
		t.Fatal(err)
	}
	found, err := configsOf(ctx, cs, top)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		diffIDs []digest.Digest
		archs   []string
	}{{[]digest.Digest{one, two}, []string{"amd64", "arm64"}}, {[]digest.Digest{two, one}, []string{"arm"}}, {nil, []string{"386"}}} {
		var got, want []string
		for _, d := range found[key(c.diffIDs)] {
			got = append(got, d.Digest.String())
		}
		for _, a := range c.archs {
			want = append(want, configs[a].String())
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", c.archs, got, want)
		}
	}
	manifests, err := (&instance{o: Options{Content: cs}}).manifestsOf(ctx, top)
	if err != nil || len(manifests) != 4 {
		t.Errorf("%d manifests, %v", len(manifests), err)
	}
	if manifests, err = (&instance{}).manifestsOf(ctx, idx.Manifests[0]); err != nil || len(manifests) != 1 {
		t.Errorf("of a single manifest: %d, %v", len(manifests), err)
	}
}
