package transfer

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/registry"
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
	config := write(ocispec.MediaTypeImageConfig,
		ocispec.Image{Platform: platforms.DefaultSpec(), RootFS: ocispec.RootFS{DiffIDs: []digest.Digest{layer.DiffID(l)}}})
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

// A layer that was only measured gets its bytes in another manifest; the image and its names stay what they are,
// also for the collector, and the second time there is nothing to do.
func TestFillLeavesTheImage(t *testing.T) {
	ctx, m, record := measured(t, false)
	filled, err := m.fill(ctx, record.Target)
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
	if err != nil || len(all) != 2 || all[0].Target.Digest != record.Target.Digest || all[1].Target.Digest != record.Target.Digest {
		t.Fatalf("%+v, %v", all, err)
	}
	release(t, ctx, m)
	if _, err := m.Store.DB.GarbageCollect(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := m.fill(ctx, record.Target)
	if err != nil || again.Digest != filled.Digest || again.Size != filled.Size || !m.has(ctx, mf.Layers[0]) {
		t.Errorf("the second time it is %s, %v", again.Digest, err)
	}
	if found, err := m.Store.Lookup(ctx, filled.Digest.String()); err != nil || found.Target.Digest != record.Target.Digest {
		t.Errorf("%+v, %v", found, err)
	}
}

// release gives the test's lease up, so that only names keep what is there.
func release(t *testing.T, ctx context.Context, m *Mover) {
	t.Helper()
	id, _ := leases.FromContext(ctx)
	if err := m.Store.Client.LeasesService().Delete(ctx, leases.Lease{ID: id}); err != nil {
		t.Fatal(err)
	}
}

// A digest that an attestation is about does not move away under it.
func TestFillKeepsAttestationsTrue(t *testing.T) {
	ctx, m, record := measured(t, true)
	_, err := m.fill(ctx, record.Target)
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
	if _, err := m.fill(ctx, record.Target); !errdefs.IsDataLoss(err) {
		t.Errorf("%v", err)
	}
}

// An image that is pushed, pulled back, saved and loaded stays what it is; pushed for one platform, too.
func TestPushedImageKeepsItsID(t *testing.T) {
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer hub.Close()
	ctx, m, record := measured(t, false)
	m.Hosts = docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))
	name := strings.TrimPrefix(hub.URL, "http://") + "/team/app:1"
	if err := m.Store.Name(ctx, name, record.Target); err != nil {
		t.Fatal(err)
	}
	same := func(what string) images.Image {
		t.Helper()
		got, err := m.Store.Lookup(ctx, name)
		if err != nil || got.Target.Digest != record.Target.Digest {
			t.Fatalf("%s: %s is %s, not %s; %v", what, name, got.Target.Digest, record.Target.Digest, err)
		}
		return got
	}
	pushed, err := m.Push(ctx, name, nil, Credentials{}, nil)
	if err != nil || pushed.Digest == record.Target.Digest {
		t.Fatalf("pushed %s, %v", pushed.Digest, err)
	}
	if got := same("pushed").Labels[cache.LabelRegistry]; got != pushed.Digest.String() {
		t.Errorf("the registry is said to have %q, not %s", got, pushed.Digest)
	}
	back, newer, err := m.Pull(ctx, name, nil, Credentials{}, nil)
	if err != nil || newer || back.Digest != pushed.Digest {
		t.Errorf("pulled %s, new: %v, %v", back.Digest, newer, err)
	}
	same("pulled back")
	var archive bytes.Buffer
	if err := m.Save(ctx, []string{name}, nil, &archive); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Load(ctx, &archive, nil); err != nil {
		t.Fatal(err)
	}
	same("loaded back")
	host := platforms.DefaultSpec()
	one, err := m.Push(ctx, name, &host, Credentials{}, nil)
	if err != nil || !images.IsManifestType(one.MediaType) {
		t.Fatalf("pushed %+v, %v", one, err)
	}
	if got := same("pushed for one platform").Labels[cache.LabelRegistry]; got != one.Digest.String() {
		t.Errorf("the registry is said to have %q, not %s", got, one.Digest)
	}
}
