package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	gofs "io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/frontend/tree"
)

// transfer writes the state of a directory over the copy of the last build. fsutil's protocol does it: the
// sender tells each file's stat, and the receiver asks for the content of those that differ from the copy in
// size, mtime, mode or link. What that comparison does not see is seen here, in the stats as they come by:
// a file whose stamp is not that of the last time, or which has other extended attributes, gets another mtime
// on its way, so that its content is asked for, and its own again in the end.
type transfer struct {
	dest   string
	hashes contenthash.CacheContext
	stamps map[string]tree.Stamp // of what the copy was made from
	source string                // the directory, where this process sees it; else empty

	now    map[string]tree.Stamp
	forced map[string]int64 // mtimes of files whose content was asked for
	dirs   map[string]directory
	last   string          // the path that came last
	links  map[string]bool // files that were forced, by name: what is linked to them is, too

	mu     sync.Mutex
	unread error // why a file could not be read
}

// directory is one of the copy.
type directory struct {
	stat    *types.Stat
	changed bool // it was there before, and looks different now
}

func newTransfer(dest, source string, hashes contenthash.CacheContext, stamps map[string]tree.Stamp) *transfer {
	return &transfer{
		dest: dest, source: source, hashes: hashes, stamps: stamps,
		now: map[string]tree.Stamp{}, forced: map[string]int64{}, dirs: map[string]directory{}, links: map[string]bool{},
	}
}

// read writes what this process sees in the directory itself.
func (t *transfer) read(ctx context.Context, dir fsutil.FS, opt fsutil.ReceiveOpt) error {
	stamped, err := tree.WithStamps(dir, t.source)
	if err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	sender, receiver := pipe(ctx)
	var sent error
	eg.Go(func() error {
		defer sender.close()
		sent = fsutil.Send(ctx, sender, &strict{FS: stamped, t: t}, nil)
		return sent
	})
	eg.Go(func() error { return t.receive(ctx, receiver, opt) })
	if err := eg.Wait(); err != nil {
		if sent != nil && !errors.Is(sent, context.Canceled) {
			err = sent // the receiver only says that there was an error
		}
		return err
	}
	return nil
}

// receive writes what comes from a sender.
func (t *transfer) receive(ctx context.Context, from fsutil.Stream, opt fsutil.ReceiveOpt) error {
	opt.NotifyHashed, opt.ContentHasher = t.changed, contenthash.NewFromStat
	if err := fsutil.Receive(ctx, watched{from, t.look}, t.dest, opt); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.unread, t.finish())
}

// watched is a stream whose stats are looked at before the receiver gets them.
type watched struct {
	fsutil.Stream
	look func(*types.Stat)
}

func (w watched) RecvMsg(m any) error {
	if err := w.Stream.RecvMsg(m); err != nil {
		return err
	}
	if p, ok := m.(*types.Packet); ok && p.Type == types.PACKET_STAT && p.Stat != nil {
		w.look(p.Stat)
	}
	return nil
}

// look sees what the receiver would not.
func (t *transfer) look(st *types.Stat) {
	path := filepath.FromSlash(st.Path)
	t.last = path
	mode := os.FileMode(st.Mode)
	stamp, stamped := tree.TakeStamp(st)
	if mode.IsDir() {
		t.dirs[path] = directory{st.Clone(), t.looksDifferent(path, st)}
		return
	}
	if stamp != 0 {
		t.now[path] = stamp
	}
	last, known := t.stamps[path]
	same := stamped && stamp != 0 && known && last == stamp
	linked := mode&os.ModeSymlink == 0 && st.Linkname != ""
	if !same && (linked && t.links[filepath.FromSlash(st.Linkname)] || known && stamped || t.doubtful(path, st, linked)) {
		t.force(path, st)
	}
}

// looksDifferent compares a directory with its copy. One without a copy is made, and told of, anyway.
func (t *transfer) looksDifferent(path string, st *types.Stat) bool {
	full := filepath.Join(t.dest, path)
	old, err := os.Lstat(full)
	if err != nil || !old.IsDir() {
		return false
	}
	owner := old.Sys().(*syscall.Stat_t)
	return old.Mode() != os.FileMode(st.Mode) || owner.Uid != st.Uid || owner.Gid != st.Gid || !sameXattrs(full, st)
}

// doubtful tells whether a file that looks like its copy may be another one. Where this process sees both, it
// compares them. A remote client's time stamp without fractions is one that a program has set.
func (t *transfer) doubtful(path string, st *types.Stat, linked bool) bool {
	copied := filepath.Join(t.dest, path)
	old, err := os.Lstat(copied)
	if err != nil || linked || old.ModTime().UnixNano() != st.ModTime || uint32(old.Mode()) != st.Mode {
		return false // or the receiver sees it
	}
	if !sameXattrs(copied, st) {
		return true
	}
	if !old.Mode().IsRegular() || old.Size() != st.Size {
		return false
	}
	if t.source == "" {
		return st.ModTime%int64(time.Second) == 0
	}
	same, err := tree.SameContent(filepath.Join(t.source, path), copied)
	return (err != nil || !same) && !isSocket(filepath.Join(t.source, path))
}

// force makes the receiver ask for a file.
func (t *transfer) force(path string, st *types.Stat) {
	t.links[path] = true
	t.forced[path] = st.ModTime
	old, err := os.Lstat(filepath.Join(t.dest, path))
	if st.ModTime++; err == nil && old.ModTime().UnixNano() == st.ModTime {
		st.ModTime++
	}
}

// changed is told of each file when it is written. Extended attributes come last: a change of the owner, and
// each write, takes a file's capabilities away.
func (t *transfer) changed(kind fsutil.ChangeKind, path string, fi os.FileInfo, err error) error {
	if err == nil && kind != fsutil.ChangeKindDelete {
		if st, ok := fi.Sys().(*types.Stat); ok {
			t.setXattrs(filepath.Join(t.dest, path), st.Xattrs)
		}
	}
	return t.hashes.HandleChange(kind, path, fi, err)
}

func (t *transfer) setXattrs(path string, all map[string][]byte) {
	for k, v := range all {
		if err := sysx.LSetxattr(path, k, v, 0); err != nil {
			slog.Debug("an extended attribute of a build's context is left out", "file", path, "attribute", k, "error", err)
		}
	}
}

// finish sets the time stamps that are not the files' own, and all that the receiver does not tell of
// directories that were there before.
func (t *transfer) finish() error {
	for path, mtime := range t.forced {
		if err := chtimes(filepath.Join(t.dest, path), mtime); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	// The deepest first: what is set below would change the times above.
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(t.dirs))) {
		if err := t.finishDir(path, t.dirs[path]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (t *transfer) finishDir(path string, d directory) error {
	full := filepath.Join(t.dest, path)
	if d.changed {
		t.replaceXattrs(full, d.stat.Xattrs)
	}
	now, err := os.Lstat(full)
	if err != nil {
		return err
	}
	if now.ModTime().UnixNano() != d.stat.ModTime {
		if err := chtimes(full, d.stat.ModTime); err != nil {
			return err
		}
	}
	if !d.changed {
		return nil
	}
	h, err := contenthash.NewFromStat(d.stat.Clone())
	if err != nil {
		return err
	}
	fi := hashedDir{&fsutil.StatInfo{Stat: d.stat}, digest.NewDigest(digest.SHA256, h)}
	return t.hashes.HandleChange(fsutil.ChangeKindModify, path, fi, nil)
}

func (t *transfer) replaceXattrs(path string, all map[string][]byte) {
	names, _ := sysx.LListxattr(path)
	for _, k := range names {
		if _, ok := all[k]; !ok {
			_ = sysx.LRemovexattr(path, k)
		}
	}
	t.setXattrs(path, all)
}

// hashedDir is a directory as BuildKit's content hashes want it.
type hashedDir struct {
	gofs.FileInfo
	digest digest.Digest
}

func (d hashedDir) Digest() digest.Digest { return d.digest }

// sameXattrs compares what a file has with what it is said to have. Those of overlayfs itself do not count.
func sameXattrs(path string, st *types.Stat) bool {
	names, err := sysx.LListxattr(path)
	if err != nil {
		return len(st.Xattrs) == 0
	}
	n := 0
	for _, k := range names {
		want, ok := st.Xattrs[k]
		if !ok {
			return false
		}
		got, err := sysx.LGetxattr(path, k)
		if err != nil || !bytes.Equal(got, want) {
			return false
		}
		n++
	}
	return n == len(st.Xattrs)
}

func chtimes(path string, mtime int64) error {
	ts := unix.NsecToTimespec(mtime)
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: path, Err: err}
	}
	return nil
}

// strict is a directory of which a file that can't be read is an error. To fsutil's sender it is an empty one.
type strict struct {
	fsutil.FS
	t *transfer
}

func (s *strict) Open(path string) (io.ReadCloser, error) {
	f, err := s.FS.Open(path)
	if err != nil && !isSocket(filepath.Join(s.t.source, path)) {
		s.t.mu.Lock()
		defer s.t.mu.Unlock()
		if s.t.unread == nil {
			s.t.unread = fmt.Errorf("reading %s of the build context: %w", path, err)
		}
	}
	return f, err
}

// isSocket tells of what has no content, and is an empty file in the copy.
func isSocket(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode()&os.ModeSocket != 0
}
