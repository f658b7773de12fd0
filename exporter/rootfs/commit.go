package rootfs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/layer"
)

// CommitOptions describe an image that is made of another one and of what a container has changed.
type CommitOptions struct {
	Name      string             // full name; empty: none
	Base      ocispec.Descriptor // manifest of the image that the container was made of
	Config    dockerspec.DockerOCIImageConfig
	Author    string
	Comment   string
	CreatedBy string // the container's command
}

// Commit makes an image of what changes writes on top of a base.
func Commit(ctx context.Context, store *cache.Store, changes layer.Source, o CommitOptions) (ocispec.Descriptor, error) {
	ctx = cache.WithNamespace(ctx)
	ctx, done, err := store.Client.WithLease(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer done(context.WithoutCancel(ctx))
	cs := store.Client.ContentStore()
	base, err := blob.Manifest(ctx, cs, o.Base)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the container's image: %w", err)
	}
	_, raw, err := blob.Config(ctx, cs, base.Config)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the container's image: %w", err)
	}
	var cfg dockerspec.DockerOCIImage
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("the container's image: %w", err)
	}
	added, err := layer.Gzip(ctx, cs, changes)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("what the container has changed: %w", err)
	}
	now := time.Now().UTC()
	cfg.Config, cfg.Author, cfg.Created = o.Config, o.Author, &now
	cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, layer.DiffID(added))
	cfg.History = append(cfg.History, ocispec.History{Created: &now, CreatedBy: o.CreatedBy, Author: o.Author, Comment: o.Comment})
	config, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: base.Config.MediaType}, cfg)
	if err != nil {
		return config, err
	}
	added.Annotations = nil
	if images.IsDockerType(base.MediaType) {
		added.MediaType = images.MediaTypeDockerSchema2LayerGzip
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: base.MediaType, Config: config,
		Layers: append(base.Layers, added),
	}
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	target, err := blob.Write(ctx, cs, ocispec.Descriptor{MediaType: m.MediaType, Platform: o.Base.Platform}, m,
		append([]ocispec.Descriptor{config}, m.Layers...)...)
	if err != nil {
		return target, err
	}
	name := o.Name
	if name == "" {
		name = cache.Dangling(target.Digest)
	}
	return target, store.Name(ctx, name, target)
}
