package transfer

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/attest"
	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/internal/fault"
)

// Push uploads the local image name, all its platforms or only p, and returns what the tag now
// points to in the registry. Layers without bytes are compressed first, which gives the image another digest
// there; here it keeps its own, and is found by both.
func (m *Mover) Push(ctx context.Context, name string, p *ocispec.Platform, c Credentials, told Progress) (ocispec.Descriptor, error) {
	ctx = cache.WithNamespace(ctx)
	record, err := m.Store.Lookup(ctx, name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer done(context.WithoutCancel(ctx))
	if err := m.pin(ctx, record.Target); err != nil {
		return ocispec.Descriptor{}, err
	}
	target := record.Target
	if p != nil {
		if target, err = m.only(ctx, record, *p); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	if target, err = m.fill(ctx, target); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("preparing %s: %w", name, err)
	}
	if err := m.complete(ctx, name, target); err != nil {
		return ocispec.Descriptor{}, err
	}
	tracker := docker.NewInMemoryTracker()
	w := watch(ctx, told, leaving(tracker))
	err = m.Store.Client.Push(ctx, name, target,
		client.WithResolver(m.tracked(c, tracker)),
		client.WithImageHandler(w.handler("Preparing")),
	)
	w.stop()
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("pushing %s: %w", name, trust.Explain(hostOf(name), err))
	}
	if err := m.pushAttestations(ctx, name, target, c); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("pushing the attestations of %s: %w", name, trust.Explain(hostOf(name), err))
	}
	return target, m.Store.InRegistry(ctx, name, target.Digest)
}

// pushAttestations uploads what refers to the image's manifests.
func (m *Mover) pushAttestations(ctx context.Context, name string, target ocispec.Descriptor, c Credentials) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	repository, cs := reference.TrimNamed(named).String(), m.Store.Client.ContentStore()
	return images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsIndexType(d.MediaType) {
			return images.Children(ctx, cs, d)
		}
		referrers, err := attest.Of(ctx, cs, d.Digest)
		if err != nil || len(referrers) == 0 {
			return nil, err
		}
		for _, r := range referrers {
			if err := m.Store.Client.Push(ctx, repository, r, client.WithResolver(m.resolver(c))); err != nil {
				return nil, err
			}
		}
		return nil, attest.List(ctx, m.resolver(c), repository, d.Digest, referrers)
	}), target)
}

// pin keeps target and all below it until the push ends, whatever becomes of its names meanwhile.
func (m *Mover) pin(ctx context.Context, target ocispec.Descriptor) error {
	id, _ := leases.FromContext(ctx)
	return m.Store.Client.LeasesService().AddResource(ctx, leases.Lease{ID: id},
		leases.Resource{ID: target.Digest.String(), Type: "content"})
}

// Has tells by its error whether there is a local image of that name for each of the platforms.
func (m *Mover) Has(ctx context.Context, name string, ps []ocispec.Platform) error {
	record, err := m.Store.Lookup(ctx, name)
	for i := 0; err == nil && i < len(ps); i++ {
		_, err = m.only(ctx, record, ps[i])
	}
	return err
}

// only returns the manifest of one platform.
func (m *Mover) only(ctx context.Context, record images.Image, p ocispec.Platform) (ocispec.Descriptor, error) {
	all, err := m.Store.Manifests(ctx, record)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var have []string
	for _, img := range all {
		if platforms.OnlyStrict(p).Match(img.Platform) {
			return img.Manifest, nil
		}
		have = append(have, platforms.Format(img.Platform))
	}
	return ocispec.Descriptor{}, fault.NotFound("image %s has no platform %s here, only %s",
		record.Name, platforms.Format(p), strings.Join(have, ", "))
}

// complete refuses to push an index some of whose platforms were never pulled.
func (m *Mover) complete(ctx context.Context, name string, target ocispec.Descriptor) error {
	cs := m.Store.Client.ContentStore()
	return images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := cs.Info(ctx, d.Digest); errdefs.IsNotFound(err) {
			what := d.MediaType
			if d.Platform != nil {
				what = "platform " + platforms.Format(*d.Platform)
			}
			return nil, fmt.Errorf("%s: %s (%s) is not here; pull it first, or push one platform with --platform: %w",
				name, what, d.Digest, errdefs.ErrFailedPrecondition)
		} else if err != nil {
			return nil, err
		}
		return images.Children(ctx, cs, d)
	}), target)
}
