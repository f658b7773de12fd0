// Package state writes small files so that a reader, or the next start after a power cut, sees the old
// content or the new one and never a half; and it serialises processes that would make the same file.
package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/sys/atomicwriter"
)

// ErrInUse says that another daemon owns a data root.
var ErrInUse = errors.New("data root is in use")

// Write replaces path with data and returns when that has reached the disk: temporary file, fsync, rename,
// fsync of the directory. On error path is as it was. The umask does not matter.
func Write(path string, data []byte, perm fs.FileMode) error {
	if err := atomicwriter.WriteFile(path, data, perm); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// Replace is Write for what ends with the boot: no reader sees a half, but a power cut may leave one.
func Replace(path string, data []byte, perm fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(perm), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// SyncDir makes what was renamed or made in dir outlast a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// Private makes dir, and what is missing above it, and lets no one but its owner into it, whatever the
// umask is and whoever made it before.
func Private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// retry is how often a lock is asked for whose wait can be cancelled.
const retry = 5 * time.Millisecond

// Lock takes the exclusive flock of path, made when missing, and waits for whoever holds it; holders in the
// same process exclude each other too. The returned function gives it back. The kernel drops the lock of a
// process that dies, so a stale file means nothing.
func Lock(path string) (unlock func(), err error) {
	f := flock.New(path)
	if err := f.Lock(); err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return release(f), nil
}

// LockContext is Lock until ctx ends, whose cause it returns then, of a file that its holder may remove:
// whoever waited for that one begins anew.
func LockContext(ctx context.Context, path string) (unlock func(), err error) {
	for {
		f := flock.New(path)
		if _, err := f.TryLockContext(ctx, retry); err != nil {
			_ = f.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		held, err := f.Stat()
		named, err2 := os.Stat(path)
		if err == nil && err2 == nil && os.SameFile(held, named) {
			return release(f), nil
		}
		_ = f.Close()
	}
}

// TryLock is Lock that does not wait; it returns ErrInUse when someone holds the lock.
func TryLock(path string) (unlock func(), err error) {
	f := flock.New(path)
	ok, err := f.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if !ok {
		_ = f.Close()
		return nil, ErrInUse
	}
	return release(f), nil
}

// Unlocked waits until nobody holds the lock of path, which must be there, or until ctx ends.
func Unlocked(ctx context.Context, path string) error {
	f := flock.New(path, flock.SetFlag(os.O_RDONLY))
	defer f.Close()
	if _, err := f.TryRLockContext(ctx, retry); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("waiting for %s: %w", path, err)
	}
	return nil
}

func release(f *flock.Flock) func() { return func() { _ = f.Close() } }
