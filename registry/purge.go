package registry

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

const (
	// abandoned is how long nothing was written to an upload that nobody will
	// go on with.
	abandoned  = 24 * time.Hour
	purgeEvery = time.Hour
)

// purgeLoop removes abandoned uploads at once and then every hour, so that
// pushes which broke off do not fill the disk. It ends with ctx.
func purgeLoop(ctx context.Context, data string, log *slog.Logger) {
	tick := time.NewTicker(purgeEvery)
	defer tick.Stop()
	for {
		n, err := purge(ctx, data, time.Now().Add(-abandoned))
		if err != nil && ctx.Err() == nil {
			log.Warn("removing abandoned uploads", "err", err)
		}
		if n > 0 {
			log.Debug("removed abandoned uploads", "count", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// purge removes the uploads below data that nothing was written to since
// before. It relies on distribution's layout
// docker/registry/v2/repositories/NAME/_uploads/UUID/ (registry/storage/paths.go, v3.1.2).
// Distribution's own PurgeUploads goes by when an upload was begun, which cuts
// off slow ones, and logs to the process's logger.
func purge(ctx context.Context, data string, before time.Time) (int, error) {
	removed := 0
	root := filepath.Join(data, "docker", "registry", "v2", "repositories")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // a repository or an upload that ended meanwhile
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case !d.IsDir():
			return nil
		case d.Name() == "_uploads":
			n, err := purgeUploads(path, before)
			removed += n
			if err != nil {
				return err
			}
			return fs.SkipDir
		case d.Name()[0] == '_':
			return fs.SkipDir
		}
		return nil
	})
	return removed, err
}

func purgeUploads(dir string, before time.Time) (int, error) {
	uploads, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, u := range uploads {
		path := filepath.Join(dir, u.Name())
		last, err := lastWrite(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, err
		}
		if !last.Before(before) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// lastWrite is the youngest modification time of anything at or below path.
func lastWrite(path string) (time.Time, error) {
	var last time.Time
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
		return nil
	})
	return last, err
}
