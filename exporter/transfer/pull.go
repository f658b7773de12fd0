package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/trust"
)

// Pull fetches one platform of the image with the full name name (this machine's when p is nil),
// records it, and unpacks it. Platforms of the same index that are here already stay. It returns what the
// registry has, and whether it is another image than the name had here. What is named by its digest comes from Peers as far as they
// have it, and from the registry otherwise.
func (m *Mover) Pull(
	ctx context.Context, name string, p *ocispec.Platform, c Credentials, told Progress,
) (target ocispec.Descriptor, newer bool, err error) {
	ctx = cache.WithNamespace(ctx)
	match := platforms.Default()
	if p != nil {
		match = platforms.OnlyStrict(*p)
	}
	// The lease keeps the blobs until the image is recorded and unpacked, and the image whose name it gets.
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return target, false, err
	}
	defer done(context.WithoutCancel(ctx))
	old, err := m.Store.Client.ImageService().Get(ctx, name)
	if err == nil {
		err = m.pin(ctx, old.Target)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return target, false, err
	}
	peers := m.peered(name, m.resolver(c))
	w := watch(ctx, told, arriving(m.Store.Client.ContentStore(), time.Now()))
	img, err := m.Store.Client.Fetch(ctx, name,
		client.WithResolver(peers),
		client.WithPlatformMatcher(match),
		client.WithImageHandler(images.Handlers(w.handler("Pulling fs layer"), images.HandlerFunc(peers.bring))),
		client.WithImageHandlerWrapper(func(h images.Handler) images.Handler { return m.fits(name, h) }),
	)
	w.stop()
	if err != nil {
		return target, false, fmt.Errorf("pulling %s: %w", name, errors.Join(trust.Explain(hostOf(name), err), peers.failed))
	}
	if err := m.Store.Pulled(ctx, old, img); err != nil {
		return target, false, err
	}
	now, err := m.Store.Open(ctx, name, p)
	if err != nil {
		return target, false, err
	}
	w.say("Pull complete", now.Layers)
	return img.Target, now.Target.Digest != old.Target.Digest, nil
}
