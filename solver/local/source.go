// Package local is BuildKit's source of local directories, but for how an unchanged one is read: not at all.
//
// Walking and sending an unchanged directory is three quarters of an unchanged build, so a client of ours
// tells which directory it is (tree.SharedKey): the daemon, when it sees the very same directory, compares a
// signature of the tree and takes the copy of the last build. In every other case BuildKit's own source does
// the work.
package local

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
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
	copies map[string]copied // by directory and purpose
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
	w.SourceManager.Register(&directories{Source: stock, refs: w.CacheMgr, notes: notes, copies: map[string]copied{}})
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
	key, dir := i.directory(ctx, job)
	begin := time.Now()
	if dir == "" {
		i.of.forget(key)
		return i.SourceInstance.Snapshot(ctx, job)
	}
	sum, err := tree.Sign(dir, selection(i.id))
	if err != nil {
		i.of.forget(key)
		return i.SourceInstance.Snapshot(ctx, job)
	}
	now := copied{request: i.request(), sum: sum}
	if ref := i.of.take(ctx, key, now); ref != nil {
		i.unchanged(job)
		return ref, nil
	}
	// From here on the copy may change, also when this fails half-way.
	i.of.forget(key)
	ref, err := i.read(ctx, job, dir)
	// A file changed in the same clock tick as it was read can change again unseen.
	if err == nil && ref != nil && sum.Settled(begin) {
		now.ref = copyID(ref)
		i.of.put(key, now)
	} else {
		i.of.forget(key) // another build may have noted the copy that this one has written over
	}
	return ref, err
}

// read is BuildKit's own reading, and tells what it finds changed when the build has asked for that.
func (i *instance) read(ctx context.Context, job bksolver.JobContext, dir string) (bkcache.ImmutableRef, error) {
	build, ok := i.of.notes.AskedBy(job.Session())
	if !ok {
		return i.SourceInstance.Snapshot(ctx, job)
	}
	fresh, err := selection(i.id).Open(dir)
	if err != nil {
		return nil, err
	}
	stock, err := bklocal.NewSource(bklocal.Opt{CacheAccessor: &comparing{i.of.refs, i.of.notes, build, i.id.Name, fresh}})
	if err != nil {
		return nil, err
	}
	inst, err := stock.Resolve(ctx, i.id, i.sm, i.v)
	if err != nil {
		return nil, err
	}
	return inst.Snapshot(ctx, job)
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
func (i *instance) directory(ctx context.Context, job bksolver.JobContext) (key, dir string) {
	var shared string
	_ = i.sm.Any(ctx, job.Session(), func(_ context.Context, _ string, c session.Caller) error {
		shared = c.SharedKey()
		return nil
	})
	key = strings.Join([]string{shared, i.id.Name, i.id.SharedKeyHint, fmt.Sprint(i.id.MetadataOnly)}, "\x00")
	if d, ok := tree.ParseSharedKey(shared)[i.id.Name]; ok && d.Here() {
		return key, d.Path
	}
	return key, ""
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
