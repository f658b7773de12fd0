package api

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/runner"
)

// holdings is what something takes on the disk, in bytes: by a blob's digest, or by a snapshot's chain ID after
// ofSnapshot, as both are shared. A layer that is no blob yet can have one and the same digest for both.
type holdings map[string]int64

const ofSnapshot = "snapshot/"

func (h holdings) add(more holdings) {
	for k, n := range more {
		h[k] = n
	}
}

func (h holdings) total() (n int64) {
	for _, size := range h {
		n += size
	}
	return n
}

// part is one manifest of an image: a platform, or what is said about one.
type part struct {
	image.ManifestSummary
	img  *cache.Image // of a platform whose config is here
	held holdings
}

// annotationFor on an attestation's descriptor is the digest of the manifest that it is about (BuildKit,
// docs/attestations/attestation-storage.md).
const annotationFor = "vnd.docker.reference.digest"

// parts lists what is named by an image's index, or its one manifest. What can't be read is left out.
func (i *Images) parts(ctx context.Context, rec images.Image, containers []runner.Record) []part {
	readable := map[digest.Digest]*cache.Image{}
	for _, img := range i.platforms(ctx, rec) {
		readable[img.Manifest.Digest] = img
	}
	targets := []ocispec.Descriptor{rec.Target}
	if images.IsIndexType(rec.Target.MediaType) {
		idx, err := blob.Index(ctx, i.Store.Client.ContentStore(), rec.Target)
		if err != nil {
			return nil // platforms has told
		}
		targets = idx.Manifests
	}
	var all []part
	for _, d := range targets {
		all = append(all, i.part(ctx, d, readable[d.Digest], containers))
	}
	return all
}

func (i *Images) part(ctx context.Context, d ocispec.Descriptor, img *cache.Image, containers []runner.Record) part {
	p := part{img: img, held: holdings{}}
	p.ID, p.Descriptor, p.Kind = d.Digest.String(), d, image.ManifestKindImage
	p.Available = i.blobs(ctx, d, p.held)
	p.Size.Content = p.held.total()
	p.Size.Total = p.Size.Content
	if about := d.Annotations[annotationFor]; about != "" {
		p.Kind, p.AttestationData = image.ManifestKindAttestation, &image.AttestationProperties{For: digest.Digest(about)}
		return p
	}
	p.ImageData = &image.ImageProperties{}
	if d.Platform != nil {
		p.ImageData.Platform = *d.Platform
	}
	if img == nil {
		return p
	}
	if d.Platform == nil {
		p.ImageData.Platform = img.Config.Platform
	}
	unpacked, whole := i.snapshots(ctx, img)
	p.held.add(unpacked)
	p.Available = p.Available || whole // what runs is here, although no one has wanted its layers as bytes yet
	p.ImageData.Size.Unpacked = unpacked.total()
	p.Size.Total += p.ImageData.Size.Unpacked
	for _, c := range containers {
		if c.Manifest.Digest == d.Digest {
			p.ImageData.Containers = append(p.ImageData.Containers, c.ID)
		}
	}
	return p
}

// blobs adds those below d that are here, and tells whether all are.
func (i *Images) blobs(ctx context.Context, d ocispec.Descriptor, held holdings) bool {
	cs, whole := i.Store.Client.ContentStore(), true
	err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		info, err := cs.Info(ctx, d.Digest)
		if err != nil {
			whole = false
			return nil, images.ErrSkipDesc
		}
		held[d.Digest.String()] = info.Size
		return images.Children(ctx, cs, d)
	}), d)
	return whole && err == nil
}

// snapshots are the unpacked layers of a platform, and whether it has all of them.
func (i *Images) snapshots(ctx context.Context, img *cache.Image) (held holdings, whole bool) {
	held, whole = holdings{}, true
	sizes := i.Store.LayerSizes(ctx, img)
	for n := range sizes {
		chain := identity.ChainID(img.Config.RootFS.DiffIDs[:n+1]).String()
		if sizes[n] == 0 && !i.unpacked(ctx, chain) {
			whole = false
			continue
		}
		held[ofSnapshot+chain] = sizes[n]
	}
	return held, whole
}

func (i *Images) unpacked(ctx context.Context, chain string) bool {
	info, err := i.Store.Client.SnapshotService(cache.Snapshotter).Stat(ctx, chain)
	return err == nil && info.Kind == snapshots.KindCommitted
}

// best is the platform that stands for an image of many: the one asked for, or this machine's, or any.
func best(all []part, asked *ocispec.Platform) *part {
	match := platforms.Default()
	if asked != nil {
		match = platforms.OnlyStrict(*asked)
	}
	var found *part
	for n := range all {
		p := &all[n]
		if p.img != nil && match.Match(p.img.Platform) && (found == nil || match.Less(p.img.Platform, found.img.Platform)) {
			found = p
		}
	}
	if found == nil && asked == nil {
		if n := slices.IndexFunc(all, func(p part) bool { return p.img != nil }); n >= 0 {
			found = &all[n]
		}
	}
	return found
}
