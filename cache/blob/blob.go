// Package blob reads and writes the JSON documents that an image is made of: indexes, manifests and configs
// (OCI image-spec v1.1, and Docker's v2 forms of the same). What is read is bounded, as it may come from
// anyone; what is written keeps what it refers to, in containerd's way: by labels of its blob.
package blob

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/fault"
)

const (
	// MaxSize is how large a document may be, in bytes. Registries take no larger manifest
	// (OCI distribution-spec v1.1, "Pushing Manifests").
	MaxSize = 4 << 20
	// MaxEntries is how many manifests an index may have.
	MaxEntries = 1000
)

// Index reads an image index, or what Docker calls a manifest list. Errors: errdefs.ErrNotFound when it is
// not here, ErrInvalidArgument when it is over a limit or no index.
func Index(ctx context.Context, from content.Provider, desc ocispec.Descriptor) (idx ocispec.Index, err error) {
	if _, err := read(ctx, from, desc, "index", &idx); err != nil {
		return idx, err
	}
	if n := len(idx.Manifests); n > MaxEntries {
		return idx, fault.Invalid("index %s has %d manifests, more than %d", desc.Digest, n, MaxEntries)
	}
	return idx, nil
}

// Manifest reads an image manifest. Errors are those of Index.
func Manifest(ctx context.Context, from content.Provider, desc ocispec.Descriptor) (m ocispec.Manifest, err error) {
	_, err = read(ctx, from, desc, "manifest", &m)
	return m, err
}

// Config reads an image's config, and returns its bytes, too: they have Docker's own fields (Healthcheck,
// Shell, OnBuild). Errors are those of Index.
func Config(ctx context.Context, from content.Provider, desc ocispec.Descriptor) (cfg ocispec.Image, raw []byte, err error) {
	raw, err = read(ctx, from, desc, "config", &cfg)
	return cfg, raw, err
}

func read(ctx context.Context, from content.Provider, desc ocispec.Descriptor, what string, v any) ([]byte, error) {
	ra, err := from.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, desc.Digest, err)
	}
	defer ra.Close()
	if n := ra.Size(); n > MaxSize {
		return nil, fault.Invalid("%s %s has %d bytes, more than %d", what, desc.Digest, n, MaxSize)
	}
	dt := make([]byte, ra.Size())
	if _, err := io.ReadFull(content.NewReader(ra), dt); err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, desc.Digest, err)
	}
	if err := json.Unmarshal(dt, v); err != nil {
		return nil, fault.Invalid("%s %s: %v", what, desc.Digest, err)
	}
	return dt, nil
}

// Write stores v as JSON, in the form that BuildKit and Docker give it, and returns desc with its digest and
// size. The blob keeps all that refs name. It is itself kept by a lease of ctx, or by what refers to it.
func Write(ctx context.Context, to content.Store, desc ocispec.Descriptor, v any, refs ...ocispec.Descriptor) (ocispec.Descriptor, error) {
	dt, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return desc, err
	}
	return Put(ctx, to, desc, dt, refs...)
}

// Put is Write of bytes as they are.
func Put(
	ctx context.Context, to content.Store, desc ocispec.Descriptor, data []byte, refs ...ocispec.Descriptor,
) (ocispec.Descriptor, error) {
	desc.Digest, desc.Size = digest.FromBytes(data), int64(len(data))
	labels := map[string]string{}
	for i, r := range refs {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.%d", i)] = r.Digest.String()
	}
	if err := content.WriteBlob(ctx, to, desc.Digest.String(), bytes.NewReader(data), desc, content.WithLabels(labels)); err != nil {
		return desc, err
	}
	return desc, Label(ctx, to, desc.Digest, labels)
}

// Label adds labels to a blob, those that it does not have yet: each write waits for the disk. A blob that was
// there before it was put has the labels of its first writer only.
func Label(ctx context.Context, to content.Manager, dgst digest.Digest, labels map[string]string) error {
	info, err := to.Info(ctx, dgst)
	if err != nil {
		return err
	}
	missing := map[string]string{}
	var fields []string
	for k, v := range labels {
		if info.Labels[k] != v {
			missing[k] = v
			fields = append(fields, "labels."+k)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	_, err = to.Update(ctx, content.Info{Digest: dgst, Labels: missing}, fields...)
	return err
}
