package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	bksnapshot "github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
)

type imageConfig struct {
	desc   ocispec.Descriptor
	rootfs ocispec.RootFS
}

// configsOf reads the configs below target, keyed by their layers; platforms may share all of them.
func configsOf(ctx context.Context, cs content.Provider, target ocispec.Descriptor) (map[string][]imageConfig, error) {
	found := map[string][]imageConfig{}
	err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		switch {
		case images.IsIndexType(d.MediaType), images.IsManifestType(d.MediaType):
			return images.Children(ctx, cs, d)
		case images.IsConfigType(d.MediaType):
			dt, err := content.ReadBlob(ctx, cs, d)
			if err != nil {
				return nil, err
			}
			var img ocispec.Image
			if err := json.Unmarshal(dt, &img); err != nil {
				return nil, fmt.Errorf("config %s: %w", d.Digest, err)
			}
			k := key(img.RootFS)
			found[k] = append(found[k], imageConfig{desc: d, rootfs: img.RootFS})
		}
		return nil, nil
	}), target)
	return found, err
}

func key(fs ocispec.RootFS) string {
	var b strings.Builder
	for _, d := range fs.DiffIDs {
		fmt.Fprintln(&b, d)
	}
	return b.String()
}

// name gives the result's snapshots the two names by which others look for them: the chain ID
// (containerd, and so the runner) and BuildKit's own for layers with a known digest (FROM). It
// returns the labels that keep them. A result whose chain can't be named is kept by its own name.
func (e *instance) name(ctx context.Context, r *ref, fs ocispec.RootFS) (map[string]string, error) {
	direct := map[string]string{cache.LabelGCSnapshot: r.snapshot(), cache.LabelSnapshot: r.snapshot()}
	if !r.plain {
		return direct, nil
	}
	chain := r.LayerChain()
	defer chain.Release(context.WithoutCancel(ctx))
	if len(chain) != len(fs.DiffIDs) {
		return nil, fmt.Errorf("%d layers, %d snapshots: %s", len(fs.DiffIDs), len(chain), r.snapshot())
	}
	parent, bkParent := "", ""
	for i, l := range chain {
		if err := l.Finalize(ctx); err != nil {
			return nil, err
		}
		id := identity.ChainID(fs.DiffIDs[:i+1])
		bk := bksnapshot.LayerSnapshotID(id)
		err := e.o.Store.Alias(ctx, snapshotOf(l), id.String(), parent)
		if err == nil {
			err = e.o.Store.Alias(ctx, snapshotOf(l), bk, bkParent)
		}
		if errors.Is(err, cache.ErrOtherParent) {
			// Part of the chain was unpacked elsewhere before. Both trees are whole, and a
			// container runs from this build's own.
			return direct, nil
		}
		if err != nil {
			return nil, err
		}
		parent, bkParent = id.String(), bk
	}
	return cache.SnapshotLabels(fs), nil
}
