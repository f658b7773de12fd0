package transfer

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/identity"
	"github.com/opencontainers/go-digest"
	ociidentity "github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/layer"
)

// fill returns the form of d, an index or a manifest, in which every layer has its bytes. It is d itself, or what
// stands for it from now on wherever digests of bytes count; d and the names that point to it stay.
func (m *Mover) fill(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	filled := d
	if filled.Digest = m.Store.Pushed(ctx, d.Digest); filled.Digest != d.Digest {
		info, err := m.content().Info(ctx, filled.Digest)
		filled.Size = info.Size
		return filled, err
	}
	var err error
	switch {
	case images.IsIndexType(d.MediaType):
		filled, err = m.fillIndex(ctx, d)
	case images.IsManifestType(d.MediaType):
		filled, err = m.fillManifest(ctx, d)
	}
	if err != nil || filled.Digest == d.Digest {
		return d, err
	}
	return filled, m.Store.SetPushed(ctx, d.Digest, filled.Digest)
}

func (m *Mover) fillIndex(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	idx, err := blob.Index(ctx, m.content(), d)
	if err != nil {
		return d, err
	}
	moved := map[digest.Digest]digest.Digest{}
	for i, child := range idx.Manifests {
		filled, err := m.fill(ctx, child)
		if errdefs.IsNotFound(err) && !m.has(ctx, child) {
			continue // a platform that was never pulled
		}
		if err != nil {
			return d, err
		}
		if filled.Digest != child.Digest {
			moved[child.Digest] = filled.Digest
			idx.Manifests[i] = filled
		}
	}
	if len(moved) == 0 {
		return d, nil
	}
	for _, child := range idx.Manifests {
		if to, ok := moved[digest.Digest(child.Annotations["vnd.docker.reference.digest"])]; ok {
			return d, fmt.Errorf("attestation %s is about an image that a push would change to %s; build it with --push: %w",
				child.Digest, to, errdefs.ErrFailedPrecondition)
		}
	}
	return blob.Write(ctx, m.content(), d, idx, idx.Manifests...)
}

func (m *Mover) fillManifest(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	mf, err := blob.Manifest(ctx, m.content(), d)
	if err != nil {
		return d, err
	}
	var cfg ocispec.Image
	changed := false
	for i, l := range mf.Layers {
		if m.has(ctx, l) {
			continue
		}
		if cfg.RootFS.DiffIDs == nil {
			if cfg, _, err = blob.Config(ctx, m.content(), mf.Config); err != nil {
				return d, err
			}
		}
		if i >= len(cfg.RootFS.DiffIDs) {
			return d, fmt.Errorf("manifest %s has %d layers, its config %d: %w",
				d.Digest, len(mf.Layers), len(cfg.RootFS.DiffIDs), errdefs.ErrDataLoss)
		}
		made, err := m.compress(ctx, cfg.RootFS.DiffIDs[:i+1])
		if err != nil {
			return d, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		made.Annotations = l.Annotations
		mf.Layers[i], changed = made, true
	}
	if !changed {
		return d, nil
	}
	return blob.Write(ctx, m.content(), d, mf, append([]ocispec.Descriptor{mf.Config}, mf.Layers...)...)
}

func chainID(diffIDs []digest.Digest) string { return ociidentity.ChainID(diffIDs).String() }

// source is the last layer of a chain, from the chain's snapshots, which are held until release.
func (m *Mover) source(ctx context.Context, diffIDs []digest.Digest) (_ layer.Source, release func(), err error) {
	sn := m.Store.Client.SnapshotService(cache.Snapshotter)
	upper, releaseUpper, err := view(ctx, sn, chainID(diffIDs))
	n := len(diffIDs)
	if err != nil || n == 1 {
		return layer.Diff(nil, upper), releaseUpper, err
	}
	lower, releaseLower, err := view(ctx, sn, chainID(diffIDs[:n-1]))
	if err != nil {
		releaseUpper()
		return nil, nil, err
	}
	return layer.Diff(lower, upper), func() { releaseLower(); releaseUpper() }, nil
}

// compress makes the blob of the last layer of a chain from the chain's snapshots.
func (m *Mover) compress(ctx context.Context, diffIDs []digest.Digest) (ocispec.Descriptor, error) {
	source, release, err := m.source(ctx, diffIDs)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	desc, err := layer.Gzip(ctx, m.content(), source)
	if err != nil {
		return desc, err
	}
	if got, want := layer.DiffID(desc), diffIDs[len(diffIDs)-1]; got != want {
		return desc, fmt.Errorf("its files give %s, not %s; build or pull the image again: %w", got, want, errdefs.ErrDataLoss)
	}
	return desc, nil
}

// view mounts nothing: it returns the mounts of a read-only view of a committed snapshot.
func view(ctx context.Context, sn snapshots.Snapshotter, name string) ([]mount.Mount, func(), error) {
	key := "push-" + identity.NewID()
	mounts, err := sn.View(ctx, key, name)
	if err != nil {
		return nil, nil, err
	}
	return mounts, func() { _ = sn.Remove(context.WithoutCancel(ctx), key) }, nil
}

func (m *Mover) has(ctx context.Context, d ocispec.Descriptor) bool {
	_, err := m.content().Info(ctx, d.Digest)
	return err == nil
}

func (m *Mover) content() content.Store { return m.Store.Client.ContentStore() }
