package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/snapshot"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/progress"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"

	"github.com/gantry-build/gantry/frontend/tree"
)

// The names under which BuildKit's source finds its copies (source/local/source.go, v0.34.2): those that it
// has made are taken on.
const (
	keySharedKey   = "local.sharedKey"
	sharedKeyIndex = keySharedKey + ":"
)

// copy brings the copy of a directory up to date: of dir, where the daemon sees it, or of what the client sends.
func (i *instance) copy(ctx context.Context, job bksolver.JobContext, c session.Caller, dir string) (_ bkcache.ImmutableRef, err error) {
	key := i.sharedKey(c)
	mutable, fresh, err := i.mutable(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			return
		}
		i.of.forgetStamps(mutable.ID())
		// What the copy holds is not known any more.
		if err := mutable.SetCachePolicyDefault(); err != nil {
			slog.Warn("a broken copy of a build's context is kept", "error", err)
		}
		contenthash.ClearCacheContext(mutable)
		go mutable.Release(context.WithoutCancel(ctx))
	}()
	if err := i.write(ctx, job, c, dir, mutable, fresh); err != nil {
		return nil, err
	}
	if mutable.GetString(keySharedKey) != key {
		if err := mutable.SetString(keySharedKey, key, sharedKeyIndex+key); err != nil {
			return nil, err
		}
	}
	return mutable.Commit(ctx)
}

// mutable returns the copy of the last build to be written over, or a fresh one.
func (i *instance) mutable(ctx context.Context, key string) (_ bkcache.MutableRef, fresh bool, err error) {
	copies, err := i.of.refs.Search(ctx, sharedKeyIndex+key, false)
	if err != nil {
		return nil, false, err
	}
	for _, md := range copies {
		if m, err := i.of.refs.GetMutable(ctx, md.ID()); err == nil {
			return m, false, nil // else another build writes to it
		}
	}
	m, err := i.of.refs.New(ctx, nil, nil, bkcache.CachePolicyRetain, bkcache.WithRecordType(client.UsageRecordTypeLocalSource),
		bkcache.WithDescription("local source for "+i.id.Name))
	return m, true, err
}

// write mounts the copy and transfers into it what differs.
func (i *instance) write(
	ctx context.Context, job bksolver.JobContext, c session.Caller, dir string, mutable bkcache.MutableRef, fresh bool,
) (err error) {
	mount, err := mutable.Mount(ctx, false, nil)
	if err != nil {
		return err
	}
	lm := snapshot.LocalMounter(mount)
	dest, err := lm.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lm.Unmount()) }()
	hashes, err := contenthash.GetCacheContext(ctx, mutable)
	if err != nil {
		return err
	}
	opt := fsutil.ReceiveOpt{Differ: i.id.Differ, ProgressCb: progressOf(ctx, i.id.Name)}
	if ids := mount.IdentityMapping(); ids != nil {
		opt.Filter = func(_ string, st *types.Stat) bool {
			uid, gid, err := ids.ToHost(int(st.Uid), int(st.Gid))
			st.Uid, st.Gid = uint32(uid), uint32(gid)
			return err == nil
		}
	}
	t := newTransfer(dest, dir, hashes, i.of.stampsOf(mutable.ID()))
	if dir == "" {
		err = i.receive(ctx, c, t, opt)
	} else {
		err = i.read(ctx, job, t, opt, fresh)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", i.id.Name, err)
	}
	i.of.noteStamps(mutable.ID(), t.now)
	return contenthash.SetCacheContext(ctx, mutable, hashes)
}

// read transfers what the daemon sees, and tells what has changed when the build has asked for that.
func (i *instance) read(ctx context.Context, job bksolver.JobContext, t *transfer, opt fsutil.ReceiveOpt, fresh bool) error {
	dir, err := selection(i.id).Open(t.source)
	if err != nil {
		return err
	}
	if build, ok := i.of.notes.AskedBy(job.Session()); ok && !fresh {
		files, err := tree.Differing(ctx, dir, t.dest)
		if err != nil {
			return err
		}
		i.of.notes.Changed(build, i.id.Name, files)
	}
	return t.read(ctx, dir, opt)
}

// receive transfers what the client sends (buildkit, session/filesync/filesync.go, FSSync, v0.34.2).
func (i *instance) receive(ctx context.Context, c session.Caller, t *transfer, opt fsutil.ReceiveOpt) error {
	if !c.Supports(session.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy")) {
		return errors.New("the client offers no local directories")
	}
	ctx, cancel := context.WithCancel(c.Context(ctx))
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, headers(map[string][]string{
		"dir-name": {i.id.Name}, "include-patterns": i.id.IncludePatterns, "exclude-patterns": i.id.ExcludePatterns,
		"followpaths": i.id.FollowPaths,
	}))
	stream, err := filesync.NewFileSyncClient(c.Conn()).DiffCopy(ctx)
	if err != nil {
		return err
	}
	if err := t.receive(stream.Context(), stream, opt); err != nil {
		return unsendable(err, t.last)
	}
	return stream.CloseSend()
}

// unsendable explains that a client could not send a name: in its protocol names are UTF-8. The client does not say
// which one, so the last that it could send has to tell where it is: files come in the order of their names.
func unsendable(err error, last string) error {
	if !strings.Contains(err.Error(), "invalid UTF-8") {
		return err
	}
	where := "the first file of the directory"
	if last != "" {
		where = fmt.Sprintf("the next file after %q in directory %q, or below it", last, filepath.Dir(last))
	}
	return fmt.Errorf("%s has a name, or a link's target, that is not UTF-8, and this client can't send it; "+
		"rename it, list it in .dockerignore, or build with gantry on the daemon's machine: %w", where, err)
}

// headers encodes a request's patterns as BuildKit's clients decode them (filesync.go, encodeOpts).
func headers(of map[string][]string) metadata.MD {
	md := metadata.MD{}
	for k, values := range of {
		if values == nil {
			continue
		}
		plain := true
		for _, v := range values {
			for _, r := range v {
				plain = plain && r <= unicode.MaxASCII
			}
		}
		md[k] = append([]string{}, values...)
		if plain {
			continue
		}
		for n, v := range values {
			md[k][n] = url.QueryEscape(v)
		}
		md[k+"-encoded"] = []string{"1"}
	}
	return md
}

// progressOf shows how many bytes have come, as BuildKit's source does.
func progressOf(ctx context.Context, name string) func(int, bool) {
	seldom := rate.NewLimiter(rate.Every(100*time.Millisecond), 1)
	w, _, _ := progress.NewFromContext(ctx)
	id, started := "transferring "+name+":", time.Now()
	st := progress.Status{Started: &started, Action: "transferring"}
	_ = w.Write(id, st)
	return func(size int, last bool) {
		if !last && !seldom.Allow() {
			return
		}
		st.Current = size
		if last {
			now := time.Now()
			st.Completed = &now
		}
		_ = w.Write(id, st)
		if last {
			w.Close()
		}
	}
}
