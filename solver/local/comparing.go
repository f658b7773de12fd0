package local

import (
	"context"
	"log/slog"

	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/snapshot"
	"github.com/tonistiigi/fsutil"

	"github.com/gantry-build/gantry/frontend/tree"
	"github.com/gantry-build/gantry/solver/explain"
)

// comparing is the cache as BuildKit's source sees it in one reading for a build that wants to know what has
// changed: what the source takes out to write over is the copy of the build before.
type comparing struct {
	bkcache.Accessor
	notes     *explain.Notes
	ref, name string    // of the build and its local directory
	fresh     fsutil.FS // the directory as it is, only what the build reads of it
}

// GetMutable implements cache.Accessor.
func (w *comparing) GetMutable(ctx context.Context, id string, opts ...bkcache.RefOption) (bkcache.MutableRef, error) {
	m, err := w.Accessor.GetMutable(ctx, id, opts...)
	if err != nil {
		return nil, err
	}
	files, err := w.compare(ctx, m)
	if err != nil {
		slog.Warn("what has changed in a directory can't be told", "directory", w.name, "error", err)
		return m, nil
	}
	w.notes.Changed(w.ref, w.name, files)
	return m, nil
}

func (w *comparing) compare(ctx context.Context, copied bkcache.MutableRef) (files []string, err error) {
	mountable, err := copied.Mount(ctx, true, nil)
	if err != nil {
		return nil, err
	}
	lm := snapshot.LocalMounter(mountable)
	old, err := lm.Mount()
	if err != nil {
		return nil, err
	}
	defer func() {
		if uerr := lm.Unmount(); err == nil {
			err = uerr
		}
	}()
	return tree.Differing(ctx, w.fresh, old)
}
