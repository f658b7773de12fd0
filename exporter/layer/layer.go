// Package layer turns directory trees into layers: a tar stream that is hashed, and compressed only
// when someone wants the bytes. The same tree gives the same bytes on any machine with any number
// of cores: blocks have a fixed size and are compressed independently.
package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/klauspost/pgzip"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/util/overlay"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blockSize is the unit of compression; changing it changes the digest of every layer.
const blockSize = 1 << 20

// Source writes a layer's tar stream to w. It may be called more than once and writes the same
// bytes each time.
type Source func(ctx context.Context, w io.Writer) error

// Diff is the layer by which the overlay mounts upper differ from lower (none for a first layer).
func Diff(lower, upper []mount.Mount) Source {
	return func(ctx context.Context, w io.Writer) error {
		dir, err := overlay.GetUpperdir(lower, upper)
		if err != nil {
			return fmt.Errorf("finding the changes of a layer: %w", err)
		}
		return overlay.WriteUpperdir(ctx, w, dir, lower)
	}
}

// Between is the layer by which the tree of upper differs from that of lower, however many snapshots
// lie between them. Both trees are walked.
func Between(lower, upper []mount.Mount) Source {
	return func(ctx context.Context, w io.Writer) error {
		return mount.WithReadonlyTempMount(ctx, lower, func(from string) error {
			return mount.WithReadonlyTempMount(ctx, upper, func(to string) error {
				return archive.WriteDiff(ctx, w, from, to)
			})
		})
	}
}

// Measure returns the descriptor that src's bytes have uncompressed. Nothing is written.
func Measure(ctx context.Context, src Source) (ocispec.Descriptor, error) {
	h := &hashing{}
	h.reset()
	if err := src(ctx, h); err != nil {
		return ocispec.Descriptor{}, err
	}
	return descriptor(ocispec.MediaTypeImageLayer, h, h.digest()), nil
}

// Gzip writes src's bytes compressed to cs. The caller's context holds a lease that keeps the blob.
func Gzip(ctx context.Context, cs content.Ingester, src Source) (_ ocispec.Descriptor, err error) {
	w, err := content.OpenWriter(ctx, cs, content.WithRef("layer-"+identity.NewID()))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Close()
	blob, plain := &hashing{w: w}, &hashing{}
	blob.reset()
	plain.reset()
	z, err := pgzip.NewWriterLevel(blob, pgzip.DefaultCompression)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := z.SetConcurrency(blockSize, runtime.GOMAXPROCS(0)); err != nil {
		return ocispec.Descriptor{}, err
	}
	plain.w = z
	if err := src(ctx, plain); err != nil {
		z.Close()
		return ocispec.Descriptor{}, err
	}
	if err := z.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := descriptor(ocispec.MediaTypeImageLayerGzip, blob, plain.digest())
	if err := w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(desc.Annotations)); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispec.Descriptor{}, err
	}
	return desc, nil
}

// Plain writes src's bytes as they are to cs, if they are those that d describes. The caller's context holds a lease that keeps the
// blob.
func Plain(ctx context.Context, cs content.Ingester, src Source, d ocispec.Descriptor) error {
	w, err := content.OpenWriter(ctx, cs, content.WithRef("layer-"+identity.NewID()), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if err := src(ctx, w); err != nil {
		return err
	}
	labels := content.WithLabels(map[string]string{labels.LabelUncompressed: d.Digest.String()})
	if err := w.Commit(ctx, d.Size, d.Digest, labels); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("the files of layer %s: %w", d.Digest, err)
	}
	return nil
}

// DiffID returns the digest of the uncompressed layer, which a descriptor made here carries.
func DiffID(d ocispec.Descriptor) digest.Digest {
	return digest.Digest(d.Annotations[labels.LabelUncompressed])
}

func descriptor(mediaType string, h *hashing, diffID digest.Digest) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType:   mediaType,
		Digest:      h.digest(),
		Size:        h.n,
		Annotations: map[string]string{labels.LabelUncompressed: diffID.String()},
	}
}

// hashing passes bytes on to w, when there is one, and digests and counts them.
type hashing struct {
	w io.Writer
	h interface {
		io.Writer
		Sum([]byte) []byte
	}
	n int64
}

func (h *hashing) reset() { h.h, h.n = sha256.New(), 0 }

func (h *hashing) Write(p []byte) (int, error) {
	if h.w != nil {
		if n, err := h.w.Write(p); err != nil {
			return n, err
		}
	}
	h.n += int64(len(p))
	return h.h.Write(p)
}

func (h *hashing) digest() digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, h.h.Sum(nil))
}
