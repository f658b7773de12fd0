package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	bksnapshot "github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache/blob"
)

const (
	// LabelSnapshot on a config blob names the snapshot of an image whose chain of layers has no
	// names of its own, which is so for results of a merge (COPY --link).
	LabelSnapshot = "gantry.build/snapshot"
	// LabelGCSnapshot on a blob keeps the snapshot that it names from being collected.
	LabelGCSnapshot = "containerd.io/gc.ref.snapshot." + Snapshotter
)

// Image is one platform of a local image, unpacked and ready to run.
type Image struct {
	Name       string             // the full name of the record: docker.io/library/debian:bookworm-slim
	Target     ocispec.Descriptor // what the name points to: an index or a manifest
	Manifest   ocispec.Descriptor
	ConfigDesc ocispec.Descriptor
	Layers     []ocispec.Descriptor
	Platform   ocispec.Platform // normalised
	Config     ocispec.Image
	RawConfig  []byte // the config blob, with Docker's own fields (Healthcheck, Shell, OnBuild)
	Snapshot   string // the committed snapshot that a container's root file system is prepared from; "": it is empty
}

// Open finds a local image and makes the chosen platform's root file system ready, unpacking layers
// that no one has unpacked yet. Without a platform it is this machine's, or else the only one that
// the image has.
func (s *Store) Open(ctx context.Context, ref string, p *ocispec.Platform) (*Image, error) {
	ctx = WithNamespace(ctx)
	record, err := s.Lookup(ctx, ref)
	if err != nil {
		return nil, err
	}
	ctx, done, err := s.Client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer done(context.WithoutCancel(ctx))
	img, err := s.choose(ctx, record, p)
	if err != nil {
		return nil, err
	}
	img.Snapshot, err = s.rootfs(ctx, record, img)
	return img, err
}

// Manifests lists the platforms of a local image whose manifest and config are here, in index order.
// The error names what can't be read; the platforms that can are returned with it.
func (s *Store) Manifests(ctx context.Context, record images.Image) ([]*Image, error) {
	ctx = WithNamespace(ctx)
	cs := s.Client.ContentStore()
	targets := []ocispec.Descriptor{record.Target}
	if images.IsIndexType(record.Target.MediaType) {
		idx, err := blob.Index(ctx, cs, record.Target)
		if err != nil {
			return nil, err
		}
		targets = idx.Manifests
	}
	var all []*Image
	var broken []error
	for _, t := range targets {
		if t.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		img, err := readManifest(ctx, cs, t)
		if errdefs.IsNotFound(err) {
			continue // a platform that was never pulled
		}
		if err != nil {
			broken = append(broken, fmt.Errorf("image %s: %w", familiar(record.Name), err))
			continue
		}
		img.Name, img.Target = record.Name, record.Target
		all = append(all, img)
	}
	return all, errors.Join(broken...)
}

func readManifest(ctx context.Context, cs content.Provider, desc ocispec.Descriptor) (*Image, error) {
	m, err := blob.Manifest(ctx, cs, desc)
	if err != nil {
		return nil, err
	}
	img := &Image{Manifest: desc, ConfigDesc: m.Config, Layers: m.Layers}
	if img.Config, img.RawConfig, err = blob.Config(ctx, cs, m.Config); err != nil {
		return nil, err
	}
	img.Platform = platforms.Normalize(img.Config.Platform)
	if desc.Platform != nil {
		img.Platform = platforms.Normalize(*desc.Platform)
	}
	return img, nil
}

func (s *Store) choose(ctx context.Context, record images.Image, p *ocispec.Platform) (*Image, error) {
	all, broken := s.Manifests(ctx, record)
	match := platforms.Default()
	if p != nil {
		match = platforms.Only(*p)
	}
	var best *Image
	for _, img := range all {
		if match.Match(img.Platform) && (best == nil || match.Less(img.Platform, best.Platform)) {
			best = img
		}
	}
	if best == nil && p == nil && len(all) == 1 {
		best = all[0]
	}
	if best == nil && broken != nil {
		return nil, broken
	}
	if best == nil {
		return nil, noPlatform(record.Name, all, p)
	}
	return best, nil
}

func noPlatform(name string, all []*Image, p *ocispec.Platform) error {
	want := platforms.DefaultSpec()
	if p != nil {
		want = *p
	}
	var have []string
	for _, img := range all {
		have = append(have, platforms.Format(img.Platform))
	}
	return fmt.Errorf("image %s has no platform %s, only %s; pull or build it with --platform %[2]s: %[4]w",
		familiar(name), platforms.Format(platforms.Normalize(want)), strings.Join(have, ", "), errdefs.ErrNotFound)
}

// rootfs returns the name of img's top snapshot, making it when it is not there.
func (s *Store) rootfs(ctx context.Context, record images.Image, img *Image) (string, error) {
	sn := s.Client.SnapshotService(Snapshotter)
	info, err := s.Client.ContentStore().Info(ctx, img.ConfigDesc.Digest)
	if err != nil {
		return "", err
	}
	if name := info.Labels[LabelSnapshot]; name != "" {
		if _, err := sn.Stat(ctx, name); err == nil {
			return name, nil
		}
	}
	if err := s.verify(ctx, img, s.knownDiffID); err != nil {
		return "", err
	}
	diffs := img.Config.RootFS.DiffIDs
	if len(diffs) == 0 {
		return "", nil // a container of it begins with an empty root file system
	}
	chain := identity.ChainID(diffs).String()
	if _, err := sn.Stat(ctx, chain); err == nil {
		return chain, s.verify(ctx, img, s.diffID)
	}
	if s.adopt(ctx, img) {
		return chain, errors.Join(s.verify(ctx, img, s.diffID), s.tie(ctx, img))
	}
	// Unpacking verifies what it reads, and notes it.
	ci := client.NewImageWithPlatform(s.Client, images.Image{Name: record.Name, Target: img.Manifest}, platforms.All)
	if err := ci.Unpack(ctx, Snapshotter); err != nil {
		// Not "not found" for the caller, who would pull another image of this name.
		return "", fmt.Errorf("unpacking %s for %s: %w: %w",
			familiar(record.Name), platforms.Format(img.Platform), errdefs.ErrDataLoss, errors.New(err.Error()))
	}
	if err := s.offer(ctx, img); err != nil {
		return "", err
	}
	return chain, s.tie(ctx, img)
}

// adopt names the snapshots that BuildKit unpacked by their chain IDs. false when it has none.
func (s *Store) adopt(ctx context.Context, img *Image) bool {
	parent := ""
	for i := range img.Config.RootFS.DiffIDs {
		id := identity.ChainID(img.Config.RootFS.DiffIDs[:i+1])
		if err := s.Alias(ctx, bksnapshot.LayerSnapshotID(id), id.String(), parent); err != nil {
			return false
		}
		parent = id.String()
	}
	return true
}

// offer names unpacked layers as BuildKit does, so that FROM does not unpack them again.
func (s *Store) offer(ctx context.Context, img *Image) error {
	parent := ""
	for i := range img.Config.RootFS.DiffIDs {
		id := identity.ChainID(img.Config.RootFS.DiffIDs[:i+1])
		name := bksnapshot.LayerSnapshotID(id)
		if err := s.Alias(ctx, id.String(), name, parent); err != nil {
			return err
		}
		parent = name
	}
	return nil
}

// tie ties the snapshots to the config blob, and with it to the image.
func (s *Store) tie(ctx context.Context, img *Image) error {
	return blob.Label(ctx, s.Client.ContentStore(), img.ConfigDesc.Digest, SnapshotLabels(img.Config.RootFS))
}

// SnapshotLabels are the labels by which a config blob keeps both names of its top snapshot.
func SnapshotLabels(fs ocispec.RootFS) map[string]string {
	id := identity.ChainID(fs.DiffIDs)
	return map[string]string{LabelGCSnapshot: id.String(), LabelGCSnapshot + "/bk": bksnapshot.LayerSnapshotID(id)}
}
