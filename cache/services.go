package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
)

// Images is the image store for callers whose contexts have no namespace, as BuildKit's.
func (s *Store) Images() images.Store { return namespaced{metadata.NewImageStore(s.DB)} }

// Leases is the lease manager below the client's.
func (s *Store) Leases() leases.Manager { return metadata.NewLeaseManager(s.DB) }

// Differ makes layers of what differs between two mounted snapshots, and writes them to cs.
func Differ(cs content.Store) diff.Comparer { return walking.NewWalkingDiff(cs) }

// namespaced calls an image store as BuildKit does, without a namespace in the context.
type namespaced struct{ images.Store }

func (s namespaced) Get(ctx context.Context, name string) (images.Image, error) {
	return s.Store.Get(WithNamespace(ctx), name)
}

func (s namespaced) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return s.Store.List(WithNamespace(ctx), filters...)
}

func (s namespaced) Create(ctx context.Context, img images.Image) (images.Image, error) {
	return s.Store.Create(WithNamespace(ctx), img)
}

func (s namespaced) Update(ctx context.Context, img images.Image, fields ...string) (images.Image, error) {
	return s.Store.Update(WithNamespace(ctx), img, fields...)
}

func (s namespaced) Delete(ctx context.Context, name string, opts ...images.DeleteOpt) error {
	return s.Store.Delete(WithNamespace(ctx), name, opts...)
}
