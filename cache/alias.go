package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/identity"
)

// aliasing lets one overlay directory have several names. containerd's metadata layer asks a
// snapshotter for "remote" snapshots by Prepare with the label containerd.io/snapshot.ref, and
// adopts the one that carries this label when the answer is ErrAlreadyExists (containerd
// docs/remote-snapshotter.md). Here the remote snapshot is one that BuildKit has committed.
type aliasing struct{ snapshots.Snapshotter }

func (a *aliasing) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var want snapshots.Info
	for _, o := range opts {
		if err := o(&want); err != nil {
			return nil, err
		}
	}
	if name := want.Labels[snapshots.LabelSnapshotRef]; name != "" {
		ok, err := a.has(ctx, name, parent)
		if err != nil {
			return nil, err
		}
		if ok {
			return nil, errdefs.ErrAlreadyExists
		}
	}
	return a.Snapshotter.Prepare(ctx, key, parent, opts...)
}

func (a *aliasing) has(ctx context.Context, name, parent string) (found bool, err error) {
	filter := fmt.Sprintf("labels.%q==%s,parent==%q", snapshots.LabelSnapshotRef, name, parent)
	err = a.Snapshotter.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		found = found || i.Kind == snapshots.KindCommitted && i.Parent == parent && i.Labels[snapshots.LabelSnapshotRef] == name
		return nil
	}, filter)
	return found, err
}

// Cleanup implements snapshots.Cleaner, without which removed directories stay on the disk.
func (a *aliasing) Cleanup(ctx context.Context) error {
	if c, ok := a.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return errdefs.ErrNotImplemented
}

// Hold keeps the snapshot, and with it its parents, for the lease in ctx. false when there is none of
// that name.
func (s *Store) Hold(ctx context.Context, snapshot string) (bool, error) {
	ctx = WithNamespace(ctx)
	if lease, ok := leases.FromContext(ctx); ok {
		res := leases.Resource{ID: snapshot, Type: "snapshots/" + Snapshotter}
		if err := s.Client.LeasesService().AddResource(ctx, leases.Lease{ID: lease}, res); err != nil {
			return false, err
		}
	}
	_, err := s.DB.Snapshotter(Snapshotter).Stat(ctx, snapshot)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// ErrOtherParent says that a snapshot can't have a name in the chain that the name belongs to.
var ErrOtherParent = errors.New("the snapshot has another parent")

// Alias gives the committed snapshot the further name alias, below parent (itself an alias of the
// snapshot's parent, or empty). A name that exists already is left as it is. Nothing is copied.
// The caller's context holds a lease; the alias belongs to it until something labelled points there.
//
// It fails with ErrOtherParent when the snapshot's real parent is another directory than parent's:
// then the chain was unpacked twice, or the snapshot is the result of a merge.
func (s *Store) Alias(ctx context.Context, snapshot, alias, parent string) error {
	ctx = WithNamespace(ctx)
	s.aliasing.Lock() // a snapshot has one label for the name that it is about to get
	defer s.aliasing.Unlock()
	sn := s.DB.Snapshotter(Snapshotter)
	if ok, err := s.Hold(ctx, alias); ok || err != nil {
		return err
	}
	labelled := snapshots.Info{Name: snapshot, Labels: map[string]string{snapshots.LabelSnapshotRef: alias}}
	if _, err := sn.Update(ctx, labelled, "labels."+snapshots.LabelSnapshotRef); err != nil {
		return fmt.Errorf("labelling snapshot %s: %w", snapshot, err)
	}
	key := "alias-" + identity.NewID()
	_, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(labelled.Labels))
	if errdefs.IsAlreadyExists(err) {
		_, err := sn.Stat(ctx, alias)
		return err
	}
	if err != nil {
		return fmt.Errorf("naming snapshot %s: %w", snapshot, err)
	}
	_ = sn.Remove(ctx, key)
	return fmt.Errorf("%w: snapshot %s can't be named %s below %q", ErrOtherParent, snapshot, alias, parent)
}
