// Package rootfs makes an image of a root file system's tar, one platform at a time. Platforms
// imported under one name become one index.
package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/layer"
	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/internal/tarball"
)

// Options describe the image to make.
type Options struct {
	Name     string // full name, docker.io/library/debian:bookworm-slim; none: the image is known by its ID only
	Platform ocispec.Platform
	Message  string // the comment in the image's history
	Config   dockerspec.DockerOCIImageConfig
}

// Import reads a tar (plain, gzip, bzip2, xz or zstd) to its end and records it as platform o.Platform of the
// image o.Name; other platforms of that name stay. The same tar gives the same digests at any time:
// the image is as old as its newest file. Input that is no tar, or ends early, leaves nothing behind; as with Docker,
// none at all is an archive without files.
func Import(ctx context.Context, store *cache.Store, r io.Reader, o Options) (ocispec.Descriptor, error) {
	ctx = cache.WithNamespace(ctx)
	o.Platform = platforms.Normalize(o.Platform)
	ctx, done, err := store.Client.WithLease(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer done(context.WithoutCancel(ctx))
	im := &importer{store: store, cs: store.Client.ContentStore()}
	tar, created, err := im.layer(ctx, r)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("import: %w", err)
	}
	manifest, err := im.manifest(ctx, o, tar, created)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var target ocispec.Descriptor
	if o.Name == "" {
		if target, err = im.index(ctx, images.Image{}, manifest); err != nil {
			return target, err
		}
		return target, store.Name(ctx, cache.Dangling(target.Digest), target)
	}
	err = store.Rename(ctx, o.Name, func(old images.Image) (ocispec.Descriptor, error) {
		target, err = im.index(ctx, old, manifest)
		return target, err
	})
	return target, err
}

type importer struct {
	store *cache.Store
	cs    content.Store
}

// layer compresses the tar into the store and returns the time of its newest file.
func (im *importer) layer(ctx context.Context, r io.Reader) (ocispec.Descriptor, time.Time, error) {
	plain, err := compressed.Open(r)
	if err != nil {
		return ocispec.Descriptor{}, time.Time{}, fmt.Errorf("decompressing: %w", err)
	}
	defer plain.Close()
	fits := tarball.Fits(plain, im.store.Root())
	defer fits.Close()
	var newest time.Time
	desc, err := layer.Gzip(ctx, im.cs, func(_ context.Context, w io.Writer) (err error) {
		newest, err = copyTar(w, fits)
		return err
	})
	return desc, newest, err
}

// copyTar copies a tar byte by byte and checks that it is a whole one.
func copyTar(w io.Writer, r io.Reader) (newest time.Time, err error) {
	through := io.TeeReader(r, w)
	files := 0
	for tr := tar.NewReader(through); ; files++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return newest, fmt.Errorf("input is not a whole tar archive (after %d files): %w: %w", files, err, errdefs.ErrInvalidArgument)
		}
		if h.ModTime.After(newest) {
			newest = h.ModTime
		}
	}
	_, err = io.Copy(io.Discard, through) // the padding belongs to the layer's digest
	return newest, err
}

func (im *importer) manifest(ctx context.Context, o Options, tar ocispec.Descriptor, created time.Time) (ocispec.Descriptor, error) {
	created = created.UTC().Truncate(time.Second)
	cfg := dockerspec.DockerOCIImage{Config: o.Config, Image: ocispec.Image{
		Created:  &created,
		Platform: o.Platform,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.DiffID(tar)}},
		History:  []ocispec.History{{Created: &created, Comment: o.Message}},
	}}
	config, err := blob.Write(ctx, im.cs, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig}, cfg)
	if err != nil {
		return config, err
	}
	tar.Annotations = nil
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    []ocispec.Descriptor{tar},
	}
	return blob.Write(ctx, im.cs, ocispec.Descriptor{MediaType: m.MediaType, Platform: &o.Platform}, m, config, tar)
}

// index is one of what old has and manifest.
func (im *importer) index(ctx context.Context, old images.Image, manifest ocispec.Descriptor) (ocispec.Descriptor, error) {
	others, err := im.others(ctx, old, *manifest.Platform)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	idx := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(others, manifest),
	}
	// In one order whatever the order of imports, so that the same tars are the same image.
	slices.SortStableFunc(idx.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(platformName(a), platformName(b)) })
	return blob.Write(ctx, im.cs, ocispec.Descriptor{MediaType: idx.MediaType}, idx, idx.Manifests...)
}

func platformName(d ocispec.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return platforms.Format(*d.Platform)
}

// others returns the manifests of the image that are for other platforms than p.
func (im *importer) others(ctx context.Context, old images.Image, p ocispec.Platform) ([]ocispec.Descriptor, error) {
	if old.Name == "" {
		return nil, nil
	}
	if !images.IsIndexType(old.Target.MediaType) {
		return im.single(ctx, old, p)
	}
	idx, err := blob.Index(ctx, im.cs, old.Target)
	if err != nil {
		return nil, err
	}
	var others []ocispec.Descriptor
	for _, m := range idx.Manifests {
		if m.Platform == nil || platforms.Format(platforms.Normalize(*m.Platform)) != platforms.Format(p) {
			others = append(others, m)
		}
	}
	return others, nil
}

// single is others of an image for one platform, which has no index.
func (im *importer) single(ctx context.Context, old images.Image, p ocispec.Platform) ([]ocispec.Descriptor, error) {
	all, err := im.store.Manifests(ctx, old)
	if err != nil || len(all) == 0 || platforms.Format(all[0].Platform) == platforms.Format(p) {
		return nil, err
	}
	d := all[0].Manifest
	d.Platform = &all[0].Platform
	return []ocispec.Descriptor{d}, nil
}
