package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	bksnapshot "github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
)

// configsOf reads the configs below target, keyed by their layers; platforms may share all of them.
func configsOf(ctx context.Context, cs content.Provider, target ocispec.Descriptor) (map[string][]ocispec.Descriptor, error) {
	found := map[string][]ocispec.Descriptor{}
	err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		switch {
		case images.IsIndexType(d.MediaType), images.IsManifestType(d.MediaType):
			return images.Children(ctx, cs, d)
		case images.IsConfigType(d.MediaType):
			img, _, err := blob.Config(ctx, cs, d)
			if err != nil {
				return nil, err
			}
			k := key(img.RootFS.DiffIDs)
			found[k] = append(found[k], d)
		}
		return nil, nil
	}), target)
	return found, err
}

// key stands for a list of layers.
func key(diffIDs []digest.Digest) string { return fmt.Sprint(diffIDs) }

// name gives the result's snapshots the two names by which others look for them: the chain ID
// (containerd, and so the runner) and BuildKit's own for layers with a known digest (FROM), and notes
// the labels that keep them. A result whose chain can't be named is kept by its own name, and its
// layers get bytes, so that FROM and a push find those.
func (e *instance) name(ctx context.Context, r *ref) error {
	diffIDs := r.diffIDs()
	if len(diffIDs) == 0 {
		return nil
	}
	if r.plain {
		err := e.nameChain(ctx, r, diffIDs)
		if err == nil {
			r.labels = cache.SnapshotLabels(ocispec.RootFS{DiffIDs: diffIDs})
			return nil
		}
		if !errors.Is(err, cache.ErrOtherParent) {
			return err
		}
		// The same layers are in the store already, on top of other directories.
		if !r.compress && !r.stock {
			r.compress, r.remote = true, nil
		}
	}
	r.labels = map[string]string{cache.LabelGCSnapshot: r.snapshot(), cache.LabelSnapshot: r.snapshot()}
	return nil
}

// held says whether all of the names exist, and keeps them.
func (e *instance) held(ctx context.Context, names ...string) (bool, error) {
	for _, n := range names {
		if ok, err := e.o.Store.Hold(ctx, n); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (e *instance) nameChain(ctx context.Context, r *ref, diffIDs []digest.Digest) error {
	chain := r.LayerChain()
	defer chain.Release(context.WithoutCancel(ctx))
	if len(chain) != len(diffIDs) {
		return fmt.Errorf("%d layers, %d snapshots: %s", len(diffIDs), len(chain), r.snapshot())
	}
	top := identity.ChainID(diffIDs)
	if named, err := e.held(ctx, top.String(), bksnapshot.LayerSnapshotID(top)); named || err != nil {
		return err
	}
	parent, bkParent := "", ""
	for i, l := range chain {
		if err := l.Finalize(ctx); err != nil {
			return err
		}
		id := identity.ChainID(diffIDs[:i+1])
		bk := bksnapshot.LayerSnapshotID(id)
		if err := e.o.Store.Alias(ctx, snapshotOf(l), id.String(), parent); err != nil {
			return err
		}
		if err := e.o.Store.Alias(ctx, snapshotOf(l), bk, bkParent); err != nil {
			return err
		}
		parent, bkParent = id.String(), bk
	}
	return nil
}
