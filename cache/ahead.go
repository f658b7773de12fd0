package cache

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/typeurl/v2"
	"github.com/klauspost/readahead"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func init() { diff.RegisterProcessor(ahead) }

// ahead takes a layer's compression off while what is out of it already is written to disk, which containerd does in turn
// (core/diff, v2.4.2): the one is the processor's work, and the other the kernel's.
func ahead(ctx context.Context, mediaType string) (diff.StreamProcessorInit, bool) {
	kind, err := images.DiffCompression(ctx, mediaType)
	if err != nil || kind == "" {
		return nil, false
	}
	return func(_ context.Context, layer diff.StreamProcessor, _ map[string]typeurl.Any) (diff.StreamProcessor, error) {
		tar, err := compression.DecompressStream(layer)
		if err != nil {
			return nil, err
		}
		r, err := readahead.NewReadCloserSize(tar, 8, 1<<20)
		return uncompressed{r}, err
	}, true
}

// uncompressed is a layer's tar.
type uncompressed struct{ io.ReadCloser }

func (uncompressed) MediaType() string { return ocispec.MediaTypeImageLayer }
