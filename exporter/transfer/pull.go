package transfer

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/trust"
)

// Pull fetches one platform of the image with the full name name (this machine's when p is nil),
// records it, and unpacks it. Platforms of the same index that are here already stay.
func (m *Mover) Pull(ctx context.Context, name string, p *ocispec.Platform, c Credentials, told Progress) (images.Image, error) {
	ctx = cache.WithNamespace(ctx)
	match := platforms.Default()
	if p != nil {
		match = platforms.OnlyStrict(*p)
	}
	// The lease keeps the blobs until the image is recorded and unpacked.
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return images.Image{}, err
	}
	defer done(context.WithoutCancel(ctx))
	img, err := m.Store.Client.Fetch(ctx, name,
		client.WithResolver(m.resolver(c)),
		client.WithPlatformMatcher(match),
		client.WithImageHandler(watch(told, "Pulling fs layer")),
	)
	if err != nil {
		return images.Image{}, fmt.Errorf("pulling %s: %w", name, trust.Explain(hostOf(name), err))
	}
	if _, err := m.Store.Open(ctx, name, p); err != nil {
		return images.Image{}, err
	}
	return img, nil
}
