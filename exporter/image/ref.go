package image

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/exporter/layer"
)

// ref is a build result whose layers are measured, or compressed by package layer, instead of being
// written one by one with BuildKit's differ.
type ref struct {
	bkcache.ImmutableRef
	content  content.Store
	leases   *leaseutil.Manager
	compress bool
	stock    bool // the layers are BuildKit's to make
	squash   bool // one layer is made of all that are not the base image's
	base     int  // number of the base image's layers

	mu     sync.Mutex
	remote *solver.Remote
	labels map[string]string // for the image's config: they keep the snapshots
	plain  bool              // the chain of layers is the chain of snapshots: no merge, no diff
}

// GetRemotes implements cache.ImmutableRef. The layers are made at the first call.
func (r *ref) GetRemotes(ctx context.Context, create bool, cfg config.RefConfig, all bool, g session.Group) ([]*solver.Remote, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.remote == nil {
		remote, err := r.make(ctx, cfg, g)
		if err != nil {
			return nil, err
		}
		r.remote = remote
	}
	return []*solver.Remote{r.remote}, nil
}

func (r *ref) make(ctx context.Context, cfg config.RefConfig, g session.Group) (*solver.Remote, error) {
	chain := r.LayerChain()
	defer chain.Release(context.WithoutCancel(ctx))
	if r.plain = isPlain(ctx, chain); !r.plain || r.stock {
		// A merged result has no directory of its own per layer: BuildKit knows how to cut it.
		remotes, err := r.ImmutableRef.GetRemotes(ctx, true, cfg, false, g)
		if err != nil {
			return nil, err
		}
		return remotes[0], nil
	}
	known := knownBlobs(ctx, chain, cfg, g)
	if r.squash && len(chain) > r.base+1 {
		return r.squashed(ctx, chain, known, g)
	}
	descs := make([]ocispec.Descriptor, len(chain))
	eg, ctx := errgroup.WithContext(ctx)
	for i := range chain {
		eg.Go(func() (err error) {
			descs[i], err = r.layer(ctx, chain, i, known, g)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	return &solver.Remote{Descriptors: descs, Provider: r.content}, nil
}

// isPlain says whether each layer's parent is the layer before it.
func isPlain(ctx context.Context, chain bkcache.RefList) bool {
	for i, l := range chain {
		own := l.LayerChain()
		same := len(own) == i+1
		for j := 0; same && j < i; j++ {
			same = own[j].ID() == chain[j].ID()
		}
		_ = own.Release(context.WithoutCancel(ctx))
		if !same {
			return false
		}
	}
	return true
}

// knownBlobs returns the descriptors of the lower layers that came with a blob, that is pulled or
// imported ones.
func knownBlobs(ctx context.Context, chain bkcache.RefList, cfg config.RefConfig, g session.Group) []ocispec.Descriptor {
	for i := len(chain) - 1; i >= 0; i-- {
		remotes, err := chain[i].GetRemotes(ctx, false, cfg, false, g)
		if err == nil && len(remotes) > 0 {
			return remotes[0].Descriptors
		}
	}
	return nil
}

func (r *ref) layer(
	ctx context.Context, chain bkcache.RefList, i int, known []ocispec.Descriptor, g session.Group,
) (ocispec.Descriptor, error) {
	if i < len(known) && r.has(ctx, known[i]) && layer.DiffID(known[i]) != "" {
		return known[i], nil
	}
	if d, ok := r.remembered(ctx, chain[i]); ok {
		return d, nil
	}
	src, release, err := diff(ctx, chain, i, g)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	var d ocispec.Descriptor
	if r.compress {
		d, err = layer.Gzip(ctx, r.content, src)
	} else {
		d, err = layer.Measure(ctx, src)
	}
	if err != nil {
		return d, err
	}
	if i < len(known) && layer.DiffID(known[i]) != layer.DiffID(d) {
		return d, fmt.Errorf("layer %s is gone from the store and can't be made again from its files; pull the base image again",
			known[i].Digest)
	}
	return d, r.remember(chain[i], d)
}

// has says whether the blob is here, and keeps it until the export ends.
func (r *ref) has(ctx context.Context, d ocispec.Descriptor) bool {
	if id, ok := leases.FromContext(ctx); ok {
		res := leases.Resource{ID: d.Digest.String(), Type: "content"}
		if err := r.leases.AddResource(ctx, leases.Lease{ID: id}, res); err != nil {
			return false
		}
	}
	_, err := r.content.Info(ctx, d.Digest)
	return err == nil
}

// Keys under which a cache record keeps the descriptor of its layer, as bytes and as measured.
const (
	memoryGzip  = "gantry.layer.gzip"
	memoryPlain = "gantry.layer"
)

// remembered prefers bytes that are here also when a measure would do: then a digest does not change
// between builds with and without a push.
func (r *ref) remembered(ctx context.Context, l bkcache.ImmutableRef) (ocispec.Descriptor, bool) {
	if d, ok := recall(l, memoryGzip); ok && r.has(ctx, d) {
		return d, true
	}
	if r.compress {
		return ocispec.Descriptor{}, false
	}
	return recall(l, memoryPlain)
}

func recall(l bkcache.ImmutableRef, key string) (d ocispec.Descriptor, ok bool) {
	dt, err := l.GetExternal(key)
	return d, err == nil && json.Unmarshal(dt, &d) == nil && d.Digest != ""
}

func (r *ref) remember(l bkcache.ImmutableRef, d ocispec.Descriptor) error {
	dt, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if r.compress {
		return l.SetExternal(memoryGzip, dt)
	}
	return l.SetExternal(memoryPlain, dt)
}

// snapshot is the name of the result's committed snapshot (BuildKit cache/metadata.go, keySnapshot).
func (r *ref) snapshot() string { return snapshotOf(r.ImmutableRef) }

func snapshotOf(l bkcache.ImmutableRef) string { return l.GetString("cache.snapshot") }

// diffIDs are the result's layers.
func (r *ref) diffIDs() (all []digest.Digest) {
	for _, d := range r.remote.Descriptors {
		all = append(all, layer.DiffID(d))
	}
	return all
}

// squashed is the base image's layers and one with all that was built on them. It is no snapshot's
// own difference, so it gets its bytes now: no one could make them later.
func (r *ref) squashed(ctx context.Context, chain bkcache.RefList, known []ocispec.Descriptor, g session.Group) (*solver.Remote, error) {
	r.plain = false
	descs := make([]ocispec.Descriptor, r.base+1)
	for i := range r.base {
		var err error
		if descs[i], err = r.layer(ctx, chain, i, known, g); err != nil {
			return nil, err
		}
	}
	v := views{g: g}
	defer v.release()
	var lower []mount.Mount
	var err error
	if r.base > 0 {
		if lower, err = v.mounts(ctx, chain[r.base-1]); err != nil {
			return nil, err
		}
	}
	upper, err := v.mounts(ctx, chain[len(chain)-1])
	if err != nil {
		return nil, err
	}
	if descs[r.base], err = layer.Gzip(ctx, r.content, layer.Between(lower, upper)); err != nil {
		return nil, fmt.Errorf("squashing: %w", err)
	}
	return &solver.Remote{Descriptors: descs, Provider: r.content}, nil
}

// views are read-only mounts of results.
type views struct {
	g        session.Group
	releases []func() error
}

func (v *views) mounts(ctx context.Context, l bkcache.ImmutableRef) ([]mount.Mount, error) {
	m, err := l.Mount(ctx, true, v.g)
	if err != nil {
		return nil, err
	}
	ms, release, err := m.Mount()
	if err == nil {
		v.releases = append(v.releases, release)
	}
	return ms, err
}

func (v *views) release() {
	for _, f := range v.releases {
		_ = f()
	}
}

// diff is layer i of the chain as a stream; release ends its mounts.
func diff(ctx context.Context, chain bkcache.RefList, i int, g session.Group) (_ layer.Source, release func(), err error) {
	v := &views{g: g}
	defer func() {
		if err != nil {
			v.release()
		}
	}()
	var lower []mount.Mount
	if i > 0 {
		if lower, err = v.mounts(ctx, chain[i-1]); err != nil {
			return nil, nil, err
		}
	}
	upper, err := v.mounts(ctx, chain[i])
	if err != nil {
		return nil, nil, err
	}
	return layer.Diff(lower, upper), v.release, nil
}
