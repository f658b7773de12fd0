package runner

import (
	"context"
	"fmt"

	"github.com/gantry-build/gantry/cache"
)

// Size returns the bytes of a container's own layer and of its whole root file system.
func (m *Manager) Size(ctx context.Context, ref string) (own, whole int64, err error) {
	c, err := m.find(ref)
	if err != nil {
		return 0, 0, err
	}
	ctx = cache.WithNamespace(ctx)
	sn := m.client.SnapshotService(cache.Snapshotter)
	for key := c.id; key != ""; {
		u, err := sn.Usage(ctx, key)
		if err != nil {
			return 0, 0, fmt.Errorf("size of container %s: %w", c.id, err)
		}
		if key == c.id {
			own = u.Size
		}
		whole += u.Size
		info, err := sn.Stat(ctx, key)
		if err != nil {
			return 0, 0, fmt.Errorf("size of container %s: %w", c.id, err)
		}
		key = info.Parent
	}
	return own, whole, nil
}
