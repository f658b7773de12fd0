package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/cache"
)

// Frozen calls f with a container's record and the mounts of what it has, and of what its image has. pause freezes its
// processes meanwhile, if it runs and is not frozen.
func (m *Manager) Frozen(ctx context.Context, ref string, pause bool, f func(rec Record, image, own []mount.Mount) error) (err error) {
	c, err := m.find(ref)
	if err != nil {
		return err
	}
	ctx, done, err := m.client.WithLease(cache.WithNamespace(ctx))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	rec := c.record()
	if pause && rec.State.Running && !rec.State.Paused {
		if err := m.Pause(ctx, c.id); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Unpause(context.WithoutCancel(ctx), c.id)) }()
	}
	sn := m.client.SnapshotService(cache.Snapshotter)
	own, err := sn.Mounts(ctx, c.id)
	if err != nil {
		return fmt.Errorf("root file system of container %s: %w", c.id, err)
	}
	info, err := sn.Stat(ctx, c.id)
	if err != nil {
		return fmt.Errorf("root file system of container %s: %w", c.id, err)
	}
	var image []mount.Mount
	if info.Parent != "" {
		key := "commit-" + stringid.GenerateRandomID()
		if image, err = sn.View(ctx, key, info.Parent); err != nil {
			return fmt.Errorf("root file system of container %s: %w", c.id, err)
		}
		defer func() { err = errors.Join(err, sn.Remove(context.WithoutCancel(ctx), key)) }()
	}
	if err := f(rec, image, own); err != nil {
		return err
	}
	return nil
}

// Committed publishes that an image was made of a container.
func (m *Manager) Committed(rec Record, imageID, name string) {
	m.emit(rec, "commit", "comment", "", "imageID", imageID, "imageRef", name)
}
