package solver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/local"
	"github.com/moby/buildkit/worker/base"
)

// localSource reads a client's directory. Walking and sending an unchanged directory is three
// quarters of an unchanged build, so a client of ours tells which directory it is (SharedKey): the
// daemon, when it sees the very same directory, compares a signature of the tree and takes the copy
// of the last build. In every other case BuildKit's own source does the work.
type localSource struct {
	source.Source
	refs    bkcache.Accessor
	changes *changes

	mu   sync.Mutex
	seen map[string]synced // by directory and purpose
}

// synced is the state of the one copy that BuildKit keeps of a directory.
type synced struct {
	selection string // include, exclude and follow patterns that the copy was made with
	sig       uint64
	ref       string
}

func registerLocal(w *base.Worker, c *changes) error {
	stock, err := local.NewSource(local.Opt{CacheAccessor: w.CacheMgr})
	if err != nil {
		return err
	}
	w.SourceManager.Register(&localSource{Source: stock, refs: w.CacheMgr, changes: c, seen: map[string]synced{}})
	return nil
}

func (s *localSource) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, v bksolver.Vertex) (source.SourceInstance, error) {
	inst, err := s.Source.Resolve(ctx, id, sm, v)
	if err != nil {
		return nil, err
	}
	lid, ok := id.(*local.LocalIdentifier)
	if !ok {
		return inst, nil
	}
	return &localInstance{inst, s, lid, sm, v}, nil
}

type localInstance struct {
	source.SourceInstance
	s  *localSource
	id *local.LocalIdentifier
	sm *session.Manager
	v  bksolver.Vertex
}

func (i *localInstance) Snapshot(ctx context.Context, job bksolver.JobContext) (bkcache.ImmutableRef, error) {
	key, dir := i.directory(ctx, job)
	begin := time.Now()
	sum, err := signature(dir, append(slices.Clone(i.id.IncludePatterns), i.id.FollowPaths...))
	if dir == "" || err != nil {
		i.s.forget(key)
		return i.SourceInstance.Snapshot(ctx, job)
	}
	now := synced{selection: i.selection(), sig: sum.hash}
	if ref := i.s.take(ctx, key, now); ref != nil {
		i.unchanged(job)
		return ref, nil
	}
	// From here on the copy may change, also when this fails half-way.
	i.s.forget(key)
	ref, err := i.read(ctx, job, dir)
	// A file changed in the same clock tick as it was read can change again unseen.
	if err == nil && ref != nil && begin.Sub(sum.newest) > settle(sum.newest) {
		now.ref = copyID(ref)
		i.s.put(key, now)
	} else {
		i.s.forget(key) // another build may have noted the copy that this one has written over
	}
	return ref, err
}

// read is BuildKit's own reading, and tells what it finds changed when the build has asked for that.
func (i *localInstance) read(ctx context.Context, job bksolver.JobContext, dir string) (bkcache.ImmutableRef, error) {
	build, ok := i.s.changes.askedBy(job.Session())
	if !ok {
		return i.SourceInstance.Snapshot(ctx, job)
	}
	refs, err := i.s.changes.watch(i.s.refs, build, dir, i.id)
	if err != nil {
		return nil, err
	}
	stock, err := local.NewSource(local.Opt{CacheAccessor: refs})
	if err != nil {
		return nil, err
	}
	inst, err := stock.Resolve(ctx, i.id, i.sm, i.v)
	if err != nil {
		return nil, err
	}
	return inst.Snapshot(ctx, job)
}

func (i *localInstance) unchanged(job bksolver.JobContext) {
	if build, ok := i.s.changes.askedBy(job.Session()); ok {
		i.s.changes.note(build, i.id.Name, []string{})
	}
}

// selection is all of a request but the directory that the copy depends on.
func (i *localInstance) selection() string {
	dt, _ := json.Marshal([]any{i.id.IncludePatterns, i.id.ExcludePatterns, i.id.FollowPaths, i.id.MetadataOnly, i.id.MetadataExceptions, i.id.Differ})
	return string(dt)
}

// take returns the copy noted for key when it is still that of now, else nil.
func (s *localSource) take(ctx context.Context, key string, now synced) bkcache.ImmutableRef {
	last, ok := s.get(key)
	if !ok || last.selection != now.selection || last.sig != now.sig {
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

// settle is longer than the clock tick of the file system that a time stamp comes from: the kernel's
// tick, or two seconds where there are no fractions (FAT, some network file systems).
func settle(stamp time.Time) time.Duration {
	if stamp.Nanosecond() == 0 {
		return 2 * time.Second
	}
	return 20 * time.Millisecond
}

// copyID names the mutable copy behind ref, which is what stays when ref is released.
func copyID(ref bkcache.ImmutableRef) string {
	if m, ok := ref.GetEqualMutable(); ok {
		return m.ID()
	}
	return ref.ID()
}

// directory returns the directory that the client reads from, when the daemon sees the same one.
func (i *localInstance) directory(ctx context.Context, job bksolver.JobContext) (key, dir string) {
	var shared string
	_ = i.sm.Any(ctx, job.Session(), func(_ context.Context, _ string, c session.Caller) error {
		shared = c.SharedKey()
		return nil
	})
	key = strings.Join([]string{shared, i.id.Name, i.id.SharedKeyHint, fmt.Sprint(i.id.MetadataOnly)}, "\x00")
	if d, ok := ParseSharedKey(shared)[i.id.Name]; ok && d.same() {
		return key, d.Path
	}
	return key, ""
}

func (s *localSource) get(key string) (synced, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.seen[key]
	return v, ok
}

func (s *localSource) put(key string, v synced) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[key] = v
}

func (s *localSource) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, key)
}

// Directory identifies a client's directory, with all that is below it: in another mount namespace other
// file systems may be mounted there.
type Directory struct {
	Path   string `json:"path"`
	Dev    uint64 `json:"dev"`
	Inode  uint64 `json:"ino"`
	Mounts uint64 `json:"mounts"` // the mount namespace's inode
}

const sharedKeyPrefix = "gantry-dirs:"

// SharedKey is the session's shared key by which a client on this machine tells where its local
// directories (by name, such as "context") are.
func SharedKey(dirs map[string]Directory) string {
	dt, _ := json.Marshal(dirs) // a map of plain values can't fail, and is sorted
	return sharedKeyPrefix + string(dt)
}

// ParseSharedKey is the reverse of SharedKey; nil for other clients' keys.
func ParseSharedKey(key string) map[string]Directory {
	rest, ok := strings.CutPrefix(key, sharedKeyPrefix)
	if !ok {
		return nil
	}
	var dirs map[string]Directory
	if json.Unmarshal([]byte(rest), &dirs) != nil {
		return nil
	}
	return dirs
}
