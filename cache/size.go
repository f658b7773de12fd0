package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Size returns the bytes that one platform of an image takes as blobs and as unpacked files. What
// is not on the disk does not count; what other images share does.
func (s *Store) Size(ctx context.Context, img *Image) (blobs, unpacked int64) {
	ctx = WithNamespace(ctx)
	cs := s.Client.ContentStore()
	_ = images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		info, err := cs.Info(ctx, d.Digest)
		if err != nil {
			return nil, images.ErrSkipDesc // a layer whose bytes no one has wanted yet
		}
		blobs += info.Size
		return images.Children(ctx, cs, d)
	}), img.Manifest)
	for _, n := range s.LayerSizes(ctx, img) {
		unpacked += n
	}
	return blobs, unpacked
}

// LayerSizes returns the bytes on disk of each unpacked layer, 0 for those that are not unpacked.
func (s *Store) LayerSizes(ctx context.Context, img *Image) []int64 {
	ctx = WithNamespace(ctx)
	sn := s.Client.SnapshotService(Snapshotter)
	sizes := make([]int64, len(img.Config.RootFS.DiffIDs))
	for i := range sizes {
		chain := identity.ChainID(img.Config.RootFS.DiffIDs[:i+1])
		if u, err := sn.Usage(ctx, chain.String()); err == nil {
			sizes[i] = u.Size
		}
	}
	return sizes
}
