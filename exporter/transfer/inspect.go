package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/internal/fault"
)

// Inspect asks a registry what the image with the full name name is there, and for which platforms. Nothing is kept.
func (m *Mover) Inspect(ctx context.Context, name string, c Credentials) (ocispec.Descriptor, []ocispec.Platform, error) {
	r := m.resolver(c)
	_, desc, err := r.Resolve(ctx, name)
	if err != nil {
		return desc, nil, fmt.Errorf("asking for %s: %w", name, trust.Explain(hostOf(name), err))
	}
	f, err := r.Fetcher(ctx, name)
	if err != nil {
		return desc, nil, err
	}
	all, err := platformsOf(ctx, f, desc)
	if err != nil {
		return desc, nil, fmt.Errorf("asking for %s: %w", name, trust.Explain(hostOf(name), err))
	}
	return desc, all, nil
}

func platformsOf(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor) ([]ocispec.Platform, error) {
	if images.IsIndexType(desc.MediaType) {
		var idx ocispec.Index
		if err := fetchJSON(ctx, f, desc, &idx); err != nil {
			return nil, err
		}
		var all []ocispec.Platform
		for _, d := range idx.Manifests {
			if d.Platform != nil && d.Platform.OS != "unknown" {
				all = append(all, *d.Platform)
			}
		}
		return all, nil
	}
	var manifest ocispec.Manifest
	if err := fetchJSON(ctx, f, desc, &manifest); err != nil {
		return nil, err
	}
	var cfg ocispec.Image
	if err := fetchJSON(ctx, f, manifest.Config, &cfg); err != nil {
		return nil, err
	}
	if cfg.OS == "" { // an artifact
		return nil, nil
	}
	return []ocispec.Platform{platforms.Normalize(cfg.Platform)}, nil
}

func fetchJSON(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, v any) error {
	rc, err := f.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, blob.MaxSize+1))
	if err != nil {
		return err
	}
	if len(data) > blob.MaxSize || desc.Digest != "" && desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return fault.Invalid("what the registry has for %s is not it", desc.Digest)
	}
	return json.Unmarshal(data, v)
}
