package transfer

import (
	"context"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/space"
)

// fits refuses a manifest whose layers have no room, before the first of them is fetched. Each takes what it has to be
// downloaded, and at least as much again when it is unpacked.
func (m *Mover) fits(name string, next images.Handler) images.Handler {
	cs := m.content()
	return images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		children, err := next.Handle(ctx, d)
		if err != nil || !images.IsManifestType(d.MediaType) {
			return children, err
		}
		var missing int64
		for _, c := range children {
			if _, err := cs.Info(ctx, c.Digest); err != nil && images.IsLayerType(c.MediaType) {
				missing += c.Size
			}
		}
		return children, space.Check(m.Store.Root(), 2*missing, "the image "+name)
	})
}
