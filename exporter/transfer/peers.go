package transfer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/layer"
	"github.com/gantry-build/gantry/internal/fault"
)

// Peers are other machines that may have what is asked for by its digest. Both verify what they bring, and fail with
// errdefs.ErrNotFound when none has it.
type Peers interface {
	// Resolve brings a manifest or index into the store.
	Resolve(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error)
	// Fetch brings a blob into the store; of is the manifest that it belongs to, or empty.
	Fetch(ctx context.Context, d ocispec.Descriptor, of digest.Digest) error
}

// peered asks peers for what is named by its digest, before the registry is asked.
type peered struct {
	remotes.Resolver
	m *Mover

	mu     sync.Mutex
	of     map[digest.Digest]digest.Digest // the manifests of configs and layers
	failed error                           // what peers had, and could not give
}

// peered returns a resolver that asks other machines first where the image is named by a digest; without peers it is r.
func (m *Mover) peered(name string, r remotes.Resolver) *peered {
	p := &peered{Resolver: r, of: map[digest.Digest]digest.Digest{}}
	if digestOf(name) != "" && m.Peers != nil {
		p.m = m
	}
	return p
}

// digestOf is the digest in an image's name, or "".
func digestOf(name string) digest.Digest {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest()
	}
	return ""
}

// Resolve implements remotes.Resolver.
func (p *peered) Resolve(ctx context.Context, ref string) (string, ocispec.Descriptor, error) {
	if p.m == nil {
		return p.Resolver.Resolve(ctx, ref)
	}
	desc, err := p.m.Peers.Resolve(ctx, digestOf(ref))
	if err == nil || ctx.Err() != nil {
		return ref, desc, err
	}
	name, desc, rerr := p.Resolver.Resolve(ctx, ref)
	if rerr != nil {
		p.failed = err
	}
	return name, desc, rerr
}

// bring has peers bring a blob. What they have not, the registry is asked for next.
func (p *peered) bring(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if p.m == nil {
		return nil, nil
	}
	p.mu.Lock()
	of := p.of[d.Digest]
	p.mu.Unlock()
	err := p.m.Peers.Fetch(ctx, d, of)
	if err != nil && !errdefs.IsNotFound(err) {
		p.mu.Lock()
		p.failed = errors.Join(p.failed, err)
		p.mu.Unlock()
	}
	if err != nil || !images.IsManifestType(d.MediaType) {
		return nil, ctx.Err()
	}
	mf, err := blob.Manifest(ctx, p.m.content(), d)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range append([]ocispec.Descriptor{mf.Config}, mf.Layers...) {
		p.of[part.Digest] = d.Digest
	}
	return nil, nil
}

// madeFor is for how long a layer's bytes that another machine wanted are kept.
const madeFor = time.Hour

// Layer looks for a layer of a local manifest that is here as files only, and returns what makes it into the bytes of its digest.
// They are kept for an hour. errdefs.ErrNotFound: it is not here, or not of that manifest.
func (m *Mover) Layer(ctx context.Context, manifest, wanted digest.Digest) (func(context.Context) error, error) {
	ctx = cache.WithNamespace(ctx)
	mf, err := blob.Manifest(ctx, m.content(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: manifest})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(mf.Layers, func(l ocispec.Descriptor) bool { return l.Digest == wanted })
	if i < 0 {
		return nil, fault.NotFound("manifest %s has no layer %s", manifest, wanted)
	}
	cfg, _, err := blob.Config(ctx, m.content(), mf.Config)
	if err != nil {
		return nil, err
	}
	if i >= len(cfg.RootFS.DiffIDs) || cfg.RootFS.DiffIDs[i] != wanted {
		return nil, fault.NotFound("layer %s is not here", wanted) // its bytes were compressed elsewhere
	}
	chain := cfg.RootFS.DiffIDs[:i+1]
	if err := m.unpacked(ctx, chain); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		ctx = cache.WithNamespace(ctx)
		ctx, _, err := m.Store.Client.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(madeFor))
		if err != nil {
			return err
		}
		source, release, err := m.source(ctx, chain)
		if err != nil {
			return err
		}
		defer release()
		return layer.Plain(ctx, m.content(), source, mf.Layers[i])
	}, nil
}

// unpacked tells by its error whether the files of a chain's last layer are here.
func (m *Mover) unpacked(ctx context.Context, chain []digest.Digest) error {
	_, err := m.Store.Client.SnapshotService(cache.Snapshotter).Stat(ctx, chainID(chain))
	if errdefs.IsNotFound(err) {
		return fault.NotFound("layer %s is not here", chain[len(chain)-1])
	}
	return err
}
