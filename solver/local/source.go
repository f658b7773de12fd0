// Package local is BuildKit's source of local directories, but for what it takes for unchanged.
//
// Walking and sending an unchanged directory is three quarters of an unchanged build, so a client of ours
// tells which directory it is (tree.SharedKey): the daemon, when it sees the very same directory, compares a
// signature of the tree and takes the copy of the last build. A directory that has changed it reads itself.
//
// What is written over the copy are the files that differ. BuildKit's own source, which compares size, mtime,
// mode and link, keeps the old content of a file whose time stamp was set back, loses capabilities, and does not
// see the mode of a directory; see [transfer].
package local

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	bklocal "github.com/moby/buildkit/source/local"
	"github.com/moby/buildkit/worker/base"

	"github.com/gantry-build/gantry/frontend/tree"
	"github.com/gantry-build/gantry/solver/explain"
)

// directories is the source.
type directories struct {
	source.Source
	refs  bkcache.Accessor
	notes *explain.Notes

	mu     sync.Mutex
	copies map[string]copied                // by directory and purpose
	stamps map[string]map[string]tree.Stamp // of the files that a copy was made from, by its ID and their names
}

// mostCopies bounds the memory for directories that come and go; what is forgotten is read once more.
const mostCopies = 1 << 12

// copied is the state of the one copy that BuildKit keeps of a directory.
type copied struct {
	request string // all but the directory that the copy was made with
	sum     tree.Signature
	ref     string
}

// Register makes the source the one of a worker. notes are told what has changed in the directories of the
// builds that have asked.
func Register(w *base.Worker, notes *explain.Notes) error {
	stock, err := bklocal.NewSource(bklocal.Opt{CacheAccessor: w.CacheMgr})
	if err != nil {
		return err
	}
	w.SourceManager.Register(&directories{Source: stock, refs: w.CacheMgr, notes: notes, copies: map[string]copied{},
		stamps: map[string]map[string]tree.Stamp{}})
	return nil
}

func (s *directories) Resolve(
	ctx context.Context, id source.Identifier, sm *session.Manager, v bksolver.Vertex,
) (source.SourceInstance, error) {
	inst, err := s.Source.Resolve(ctx, id, sm, v)
	if err != nil {
		return nil, err
	}
	lid, ok := id.(*bklocal.LocalIdentifier)
	if !ok {
		return inst, nil
	}
	return &instance{inst, s, lid, sm, v}, nil
}

type instance struct {
	source.SourceInstance
	of *directories
	id *bklocal.LocalIdentifier
	sm *session.Manager
	v  bksolver.Vertex
}

func (i *instance) Snapshot(ctx context.Context, job bksolver.JobContext) (bkcache.ImmutableRef, error) {
	if i.id.MetadataOnly {
		return i.SourceInstance.Snapshot(ctx, job) // no content is read
	}
	var ref bkcache.ImmutableRef
	err := i.withCaller(ctx, job.Session(), func(ctx context.Context, c session.Caller) (err error) {
		ref, err = i.snapshot(ctx, job, c)
		return err
	})
	return ref, err
}

// withCaller finds the session that serves the directory, as BuildKit's source does
// (source/local/source.go, Snapshot, v0.34.2).
func (i *instance) withCaller(ctx context.Context, g session.Group, f func(context.Context, session.Caller) error) error {
	any := func(ctx context.Context, _ string, c session.Caller) error { return f(ctx, c) }
	if i.id.SessionID == "" {
		return i.sm.Any(ctx, g, any)
	}
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := i.sm.Get(soon, i.id.SessionID, false)
	if err != nil {
		return i.sm.Any(ctx, g, any)
	}
	err = f(ctx, c)
	if errors.As(err, new(filesync.InvalidSessionError)) {
		return i.sm.Any(ctx, g, any)
	}
	return err
}

func (i *instance) snapshot(ctx context.Context, job bksolver.JobContext, c session.Caller) (bkcache.ImmutableRef, error) {
	key, dir := i.directory(c)
	var sum tree.Signature
	if dir != "" {
		var err error
		if sum, err = tree.Sign(dir, selection(i.id)); err != nil {
			dir = "" // it changes under our feet; its client says what is wrong with it, if anything
		}
	}
	begin := time.Now()
	now := copied{request: i.request(), sum: sum}
	if dir != "" {
		if ref := i.of.take(ctx, key, now); ref != nil {
			i.unchanged(job)
			return ref, nil
		}
	}
	// From here on the copy may change, also when this fails half-way.
	i.of.forget(key)
	ref, err := i.copy(ctx, job, c, dir)
	// A file changed in the same clock tick as it was read can change again unseen.
	if err == nil && dir != "" && sum.Settled(begin) {
		now.ref = copyID(ref)
		i.of.put(key, now)
	} else {
		i.of.forget(key) // another build may have noted the copy that this one has written over
	}
	return ref, err
}

func (i *instance) unchanged(job bksolver.JobContext) {
	if build, ok := i.of.notes.AskedBy(job.Session()); ok {
		i.of.notes.Changed(build, i.id.Name, []string{})
	}
}

// request is all but the directory that the copy depends on.
func (i *instance) request() string {
	dt, _ := json.Marshal([]any{selection(i.id), i.id.MetadataOnly, i.id.MetadataExceptions, i.id.Differ})
	return string(dt)
}

func selection(id *bklocal.LocalIdentifier) tree.Selection {
	return tree.Selection{Include: id.IncludePatterns, Exclude: id.ExcludePatterns, Follow: id.FollowPaths}
}

// take returns the copy noted for key when it is still that of now, else nil.
func (s *directories) take(ctx context.Context, key string, now copied) bkcache.ImmutableRef {
	last, ok := s.get(key)
	if !ok || last.request != now.request || last.sum != now.sum {
		return nil
	}
	ref, err := s.refs.Get(ctx, last.ref, nil)
	if err != nil {
		return nil
	}
	// Another build may have begun to write to it before we held it.
	if again, ok := s.get(key); !ok || again != last {
		_ = ref.Release(context.WithoutCancel(ctx))
		return nil
	}
	return ref
}

// copyID names the mutable copy behind ref, which is what stays when ref is released.
func copyID(ref bkcache.ImmutableRef) string {
	if m, ok := ref.GetEqualMutable(); ok {
		return m.ID()
	}
	return ref.ID()
}

// directory returns the directory that the client reads from, when the daemon sees the same one.
func (i *instance) directory(c session.Caller) (key, dir string) {
	key = i.sharedKey(c)
	if d, ok := tree.ParseSharedKey(c.SharedKey())[i.id.Name]; ok && d.Here() {
		return key, d.Path
	}
	return key, ""
}

// sharedKey names the copy of a directory, as BuildKit's source names it.
func (i *instance) sharedKey(c session.Caller) string {
	return i.id.Name + ":" + i.id.SharedKeyHint + ":" + c.SharedKey()
}

func (s *directories) get(key string) (copied, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.copies[key]
	return v, ok
}

func (s *directories) put(key string, v copied) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.copies) >= mostCopies {
		for some := range s.copies {
			delete(s.copies, some)
			break
		}
	}
	s.copies[key] = v
}

func (s *directories) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.copies, key)
}

// mostStamped bounds the copies of which the files' stamps are kept: some 40 bytes a file.
const mostStamped = 32

func (s *directories) stampsOf(id string) map[string]tree.Stamp {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stamps[id]
}

func (s *directories) noteStamps(id string, stamps map[string]tree.Stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stamps) >= mostStamped {
		for some := range s.stamps {
			delete(s.stamps, some)
			break
		}
	}
	s.stamps[id] = stamps
}

func (s *directories) forgetStamps(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stamps, id)
}
