package cache

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verify refuses an image whose manifest has other layers than its configuration names: snapshots are
// found by what the configuration says, so such an image would run with another one's files, or with a
// part of its own. diffID tells the digest of a layer's tar; one of which it is not found can't be wrong.
func (s *Store) verify(ctx context.Context, img *Image, diffID func(context.Context, ocispec.Descriptor) (digest.Digest, error)) error {
	err := s.verifyLayers(ctx, img, diffID)
	if err != nil {
		return fmt.Errorf("image %s for %s: %w", familiar(img.Name), platforms.Format(img.Platform), err)
	}
	return nil
}

func (s *Store) verifyLayers(
	ctx context.Context, img *Image, diffID func(context.Context, ocispec.Descriptor) (digest.Digest, error),
) error {
	diffs := img.Config.RootFS.DiffIDs
	if len(diffs) != len(img.Layers) {
		return fmt.Errorf("it is broken: its manifest has %d layers, its configuration names %d: %w",
			len(img.Layers), len(diffs), errdefs.ErrDataLoss)
	}
	for i, l := range img.Layers {
		got, err := diffID(ctx, l)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		if got != diffs[i] {
			return fmt.Errorf("it is broken: layer %s unpacks to %s, and the configuration says %s: %w",
				l.Digest, got, diffs[i], errdefs.ErrDataLoss)
		}
	}
	return nil
}

// knownDiffID is what is noted at a layer's blob; errdefs.ErrNotFound without a note.
func (s *Store) knownDiffID(ctx context.Context, layer ocispec.Descriptor) (digest.Digest, error) {
	info, err := s.Client.ContentStore().Info(ctx, layer.Digest)
	if err != nil {
		return "", err
	}
	if known := info.Labels[labels.LabelUncompressed]; known != "" {
		return digest.Parse(known)
	}
	return "", errdefs.ErrNotFound
}

// diffID reads the layer when nothing is noted, and notes what it finds.
func (s *Store) diffID(ctx context.Context, layer ocispec.Descriptor) (digest.Digest, error) {
	if known, err := s.knownDiffID(ctx, layer); !errdefs.IsNotFound(err) {
		return known, err
	}
	cs := s.Client.ContentStore()
	ra, err := cs.ReaderAt(ctx, layer)
	if err != nil {
		return "", err
	}
	defer ra.Close()
	tar, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return "", err
	}
	defer tar.Close()
	sum := digest.Canonical.Digester()
	if _, err := io.Copy(sum.Hash(), tar); err != nil {
		return "", err
	}
	note := content.Info{Digest: layer.Digest, Labels: map[string]string{labels.LabelUncompressed: sum.Digest().String()}}
	_, err = cs.Update(ctx, note, "labels."+labels.LabelUncompressed)
	return sum.Digest(), err
}
