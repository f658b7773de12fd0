package transfer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/cache/cachetest"
	"github.com/gantry-build/gantry/exporter/layer"
)

// measured is a store with an image whose one layer was never written, under two names, as a build leaves
// it. An attestation about it is in its index when one is wanted.
func measured(t *testing.T, attested bool) (context.Context, *Mover, images.Image) {
	t.Helper()
	s := cachetest.Start(t)
	ctx, _, err := s.Client.WithLease(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	sn, cs := s.Client.SnapshotService(cache.Snapshotter), s.Client.ContentStore()
	upper, err := sn.Prepare(ctx, "work", "")
	must(err)
	must(mount.WithTempMount(ctx, upper, func(root string) error {
		return os.WriteFile(filepath.Join(root, "file"), []byte("text"), 0o644)
	}))
	l, err := layer.Measure(ctx, layer.Diff(nil, upper))
	must(err)
	must(sn.Commit(ctx, identity.ChainID([]digest.Digest{layer.DiffID(l)}).String(), "work"))
	write := func(mediaType string, v any, refs ...ocispec.Descriptor) ocispec.Descriptor {
		d, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: mediaType}, v, refs...)
		must(err)
		return d
	}
	config := write(ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{DiffIDs: []digest.Digest{layer.DiffID(l)}}})
	m := write(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l}}, config)
	idx := ocispec.Index{Manifests: []ocispec.Descriptor{m}}
	if attested {
		about := write(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: config}, config)
		about.Annotations = map[string]string{"vnd.docker.reference.digest": m.Digest.String()}
		idx.Manifests = append(idx.Manifests, about)
	}
	top := write(ocispec.MediaTypeImageIndex, idx, idx.Manifests...)
	var record images.Image
	for _, name := range []string{"docker.io/library/app:1", "docker.io/library/app:2"} {
		record, err = s.Client.ImageService().Create(ctx, images.Image{Name: name, Target: top})
		must(err)
	}
	return ctx, &Mover{Store: s}, record
}

// A layer that was only measured gets its bytes; every name of the image moves with its digest, and the second
// time there is nothing to do.
func TestFillMovesEveryName(t *testing.T) {
	ctx, m, record := measured(t, false)
	filled, err := m.fill(ctx, record, record.Target)
	if err != nil || filled.Digest == record.Target.Digest {
		t.Fatalf("%s became %s, %v", record.Target.Digest, filled.Digest, err)
	}
	idx, err := blob.Index(ctx, m.content(), filled)
	if err != nil {
		t.Fatal(err)
	}
	mf, err := blob.Manifest(ctx, m.content(), idx.Manifests[0])
	if err != nil || !m.has(ctx, mf.Layers[0]) || mf.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("%+v, %v", mf, err)
	}
	all, err := m.Store.Client.ImageService().List(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, img := range all {
		if img.Target.Digest != filled.Digest {
			t.Errorf("%s is still %s", img.Name, img.Target.Digest)
		}
	}
	again, err := m.fill(ctx, all[0], all[0].Target)
	if err != nil || again.Digest != filled.Digest {
		t.Errorf("the second time it is %s, %v", again.Digest, err)
	}
}

// A digest that an attestation is about does not move away under it.
func TestFillKeepsAttestationsTrue(t *testing.T) {
	ctx, m, record := measured(t, true)
	_, err := m.fill(ctx, record, record.Target)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--push") {
		t.Errorf("%v", err)
	}
}

// Files that are no longer those of the layer are not passed off as it.
func TestFillSeesOtherFiles(t *testing.T) {
	ctx, m, record := measured(t, false)
	img, err := m.Store.Manifests(ctx, record)
	if err != nil || len(img) != 1 {
		t.Fatal(err)
	}
	sn := m.Store.Client.SnapshotService(cache.Snapshotter)
	upper, err := sn.View(ctx, "look", identity.ChainID(img[0].Config.RootFS.DiffIDs).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper[0].Source, "file"), []byte("TEXT"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.fill(ctx, record, record.Target); !errdefs.IsDataLoss(err) {
		t.Errorf("%v", err)
	}
}
