package solver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	gofs "io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	bkcache "github.com/moby/buildkit/cache"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/source/local"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
)

// OptKeyExplain is the frontend attribute of a build that wants to know what has changed in its local
// directories. It ends here: no frontend sees it.
const OptKeyExplain = "gantry-explain"

// keptChanges is the number of builds whose changes are remembered.
const keptChanges = 16

// changes are what builds that asked for it have found in their local directories. They are safe for
// concurrent use.
type changes struct {
	mu       sync.Mutex
	sessions map[string]string // refs of running builds that have asked, by session
	found    map[string]map[string][]string
	order    []string // refs in found, the oldest first
}

func newChanges() *changes {
	return &changes{sessions: map[string]string{}, found: map[string]map[string][]string{}}
}

// Changes returns, for a build that was asked with OptKeyExplain, the files that differ from what the
// build before has read, by the name of the local directory. A directory that no build has read before,
// or that another machine has, is not in it.
func (s *Solver) Changes(ref string) map[string][]string {
	s.changes.mu.Lock()
	defer s.changes.mu.Unlock()
	return maps.Clone(s.changes.found[ref]) // its build may still be writing
}

// asked notes the builds that want to know, before their attributes go on to the frontend.
func (c *changes) asked(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if inner, ok := req.(*gatewayapi.SolveRequest); ok {
		delete(inner.FrontendOpt, OptKeyExplain)
	}
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok {
		return next(ctx, req)
	}
	_, ok = solve.FrontendAttrs[OptKeyExplain]
	if !ok || solve.Session == "" {
		return next(ctx, req)
	}
	delete(solve.FrontendAttrs, OptKeyExplain)
	c.begin(solve.Session, solve.Ref)
	defer c.end(solve.Session)
	return next(ctx, req)
}

func (c *changes) begin(session, ref string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[session] = ref
	if c.found[ref] == nil {
		c.found[ref] = map[string][]string{}
		c.order = append(c.order, ref)
	}
	if len(c.order) > keptChanges {
		delete(c.found, c.order[0])
		c.order = slices.Delete(c.order, 0, 1)
	}
}

func (c *changes) end(session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, session)
}

// askedBy returns the build of one of the sessions that has asked.
func (c *changes) askedBy(g session.Group) (ref string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range session.AllSessionIDs(g) {
		if ref, ok = c.sessions[id]; ok {
			return ref, true
		}
	}
	return "", false
}

func (c *changes) note(ref, name string, files []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if of := c.found[ref]; of != nil {
		of[name] = files
	}
}

// watching is the cache as the source of local directories sees it: what it takes out to write over is
// the copy of the build before.
type watching struct {
	bkcache.Accessor
	changes   *changes
	ref, name string
	fresh     fsutil.FS // the directory as it is, only what the build reads of it
}

// watch returns the accessor for one reading of dir.
func (c *changes) watch(refs bkcache.Accessor, ref, dir string, id *local.LocalIdentifier) (bkcache.Accessor, error) {
	all, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, err
	}
	fresh, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{
		IncludePatterns: id.IncludePatterns, ExcludePatterns: id.ExcludePatterns, FollowPaths: id.FollowPaths,
	})
	if err != nil {
		return nil, err
	}
	return &watching{refs, c, ref, id.Name, fresh}, nil
}

func (w *watching) GetMutable(ctx context.Context, id string, opts ...bkcache.RefOption) (bkcache.MutableRef, error) {
	m, err := w.Accessor.GetMutable(ctx, id, opts...)
	if err != nil {
		return nil, err
	}
	files, err := w.compare(ctx, m)
	if err != nil {
		slog.Warn("what has changed in a directory can't be told", "directory", w.name, "error", err)
		return m, nil
	}
	w.changes.note(w.ref, w.name, files)
	return m, nil
}

func (w *watching) compare(ctx context.Context, copied bkcache.MutableRef) (files []string, err error) {
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
	return differing(ctx, w.fresh, old)
}

// differing lists the files of fresh that are not, or not the same, below old, and those that are only
// there, as "path", "path (new)" and "path (gone)", sorted. Directories and time stamps don't count.
func differing(ctx context.Context, fresh fsutil.FS, old string) (files []string, err error) {
	seen := map[string]bool{}
	err = fresh.Walk(ctx, "", func(path string, e gofs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		seen[path] = true
		fi, err := e.Info()
		if err != nil {
			return err
		}
		was, err := os.Lstat(filepath.Join(old, path))
		if os.IsNotExist(err) {
			files = append(files, path+" (new)")
			return nil
		}
		if err != nil {
			return err
		}
		same, err := sameFile(fresh, path, fi, filepath.Join(old, path), was)
		if err == nil && !same {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(old, func(path string, e gofs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(old, path)
		if err == nil && !seen[rel] {
			files = append(files, rel+" (gone)")
		}
		return err
	})
	slices.Sort(files)
	return files, err
}

func sameFile(fresh fsutil.FS, path string, is gofs.FileInfo, oldPath string, was gofs.FileInfo) (bool, error) {
	if is.Mode() != was.Mode() {
		return false, nil
	}
	if !is.Mode().IsRegular() {
		if is.Mode()&gofs.ModeSymlink == 0 {
			return true, nil
		}
		to, err := os.Readlink(oldPath)
		if err != nil {
			return false, err
		}
		st, ok := is.Sys().(*types.Stat)
		return ok && st.Linkname == to, nil
	}
	if is.Size() != was.Size() {
		return false, nil
	}
	if is.ModTime().Equal(was.ModTime()) {
		return true, nil
	}
	a, err := fresh.Open(path)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(oldPath)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameBytes(a, b)
}

func sameBytes(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		end := err == io.EOF || err == io.ErrUnexpectedEOF
		switch {
		case end && (err2 == io.EOF || err2 == io.ErrUnexpectedEOF):
			return true, nil
		case err != nil && !end:
			return false, fmt.Errorf("comparing: %w", err)
		case err2 != nil:
			return false, fmt.Errorf("comparing: %w", err2)
		}
	}
}
