package farm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/progress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// run does the work on the first machine that can. That none could is no error, and said.
func (f *Farm) run(ctx context.Context, w *work, say func(format string, args ...any)) error {
	for _, n := range f.ranked(ctx, w) {
		say("on node %s", n.Name)
		made, err := f.on(ctx, n, w)
		switch {
		case err == nil:
			f.mu.Lock()
			defer f.mu.Unlock()
			w.made = made
			for _, d := range made {
				w.helps = w.helps || d.Digest != ""
			}
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isStep(err):
			return fmt.Errorf("on node %s: %w", n.Name, err)
		}
		f.o.Log.Warn("a node could not build", "node", n.Name, "platform", w.name(), "error", err)
		say("node %s could not build it: %v", n.Name, err)
	}
	if len(w.nodes) == 0 {
		say("no node of the cluster that is ready runs %s natively", w.name())
	}
	say("%s is emulated here", w.name())
	return nil
}

// isStep tells whether it is a step that has failed, which it would elsewhere, too.
func isStep(err error) bool {
	var step *errdefs.SolveError
	return errors.As(err, &step)
}

// weighing is how long machines have to say how they are.
const weighing = 3 * time.Second

// load is how a machine is.
type load struct {
	node   Node
	builds int // that run now
	warm   int // steps whose results it has
	err    error
}

// ranked are the machines for some work, the best first: idle ones, of these one that has done it before. Those that do not answer
// are the last.
func (f *Farm) ranked(ctx context.Context, w *work) (all []Node) {
	if len(w.nodes) < 2 {
		return w.nodes
	}
	ctx, cancel := context.WithTimeout(ctx, weighing)
	defer cancel()
	steps := commands(w.parts)
	loads := make([]load, len(w.nodes))
	var eg errgroup.Group
	for i, n := range w.nodes {
		eg.Go(func() error {
			loads[i] = weigh(ctx, n, steps)
			return nil
		})
	}
	_ = eg.Wait()
	slices.SortStableFunc(loads, compare)
	for _, l := range loads {
		all = append(all, l.node)
	}
	return all
}

func compare(a, b load) int {
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	for _, d := range []int{
		flag(a.err != nil) - flag(b.err != nil), flag(a.builds > 0) - flag(b.builds > 0), b.warm - a.warm, a.builds - b.builds,
		strings.Compare(a.node.Name, b.node.Name),
	} {
		if d != 0 {
			return d
		}
	}
	return 0
}

func weigh(ctx context.Context, n Node, steps []string) load {
	l := load{node: n}
	c, err := client.New(ctx, "", client.WithContextDialer(dialer(n)))
	if err != nil {
		l.err = err
		return l
	}
	defer c.Close()
	running, err := c.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{ActiveOnly: true, EarlyExit: true})
	for err == nil {
		if _, err = running.Recv(); err == nil {
			l.builds++
		}
	}
	if !errors.Is(err, io.EOF) {
		l.err = err
		return l
	}
	var filter []string
	for _, s := range steps {
		filter = append(filter, "description=="+strconv.Quote(s))
	}
	if filter == nil {
		return l
	}
	has, err := c.DiskUsage(ctx, client.WithFilter(filter))
	l.warm, l.err = len(has), err
	return l
}

// on has one machine solve all parts, and returns what it has of each.
func (f *Farm) on(ctx context.Context, n Node, w *work) ([]ocispec.Descriptor, error) {
	l, err := f.link(ctx, n, w)
	if err != nil {
		return nil, err
	}
	ctx, lose := context.WithCancelCause(ctx)
	var guarding sync.WaitGroup
	defer guarding.Wait()
	defer lose(nil)
	guarding.Go(func() { f.guard(ctx, n, w.platform, lose) })
	made := make([]ocispec.Descriptor, len(w.parts))
	eg, working := errgroup.WithContext(ctx)
	for i, part := range w.parts {
		eg.Go(func() (err error) {
			made[i], err = f.solve(working, l, n, w, part)
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return made, nil
}

// glance is how often it is looked whether a machine that works is still there: one that hangs does not say so.
const glance = 2 * time.Second

var errLost = errors.New("it is not ready any more")

// guard gives up a machine that is missing twice.
func (f *Farm) guard(ctx context.Context, n Node, p ocispec.Platform, lose context.CancelCauseFunc) {
	for missing := 0; missing < 2; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(glance):
		}
		all, ok := f.o.Nodes(ctx, p)
		if missing++; ok && slices.ContainsFunc(all, func(o Node) bool { return o.ID == n.ID }) {
			missing = 0
		}
	}
	lose(errLost)
}

// solve has a machine solve a definition, and shows here how it goes.
func (f *Farm) solve(ctx context.Context, l *link, n Node, w *work, part *pb.Definition) (made ocispec.Descriptor, err error) {
	req := &controlapi.SolveRequest{
		Ref: identity.NewID(), Session: w.sid, Definition: part,
		Cache: &controlapi.CacheOptions{
			Exports: []*controlapi.CacheOptionsEntry{{Type: CacheType, Attrs: map[string]string{"mode": "max"}}},
		},
	}
	for _, im := range w.imports {
		req.Cache.Imports = append(req.Cache.Imports, &controlapi.CacheOptionsEntry{Type: im.Type, Attrs: im.Attrs})
	}
	f.rule(req)
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { l.watch(watching, n, req.Ref) })
	res, err := l.client.ControlClient().Solve(ctx, req)
	if err != nil {
		time.AfterFunc(time.Second, stop) // there may be nothing to watch
	}
	watch.Wait()
	stop()
	if err != nil {
		return made, err
	}
	if dt := res.ExporterResponse[remotecache.ExporterResponseManifestDesc]; dt != "" {
		err = json.Unmarshal([]byte(dt), &made)
	}
	return made, err
}

// watch shows the steps of a solve under names and digests of their own: here they have not run.
func (l *link) watch(ctx context.Context, n Node, ref string) {
	status, err := l.client.ControlClient().Status(ctx, &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		return
	}
	own := func(d digest.Digest) digest.Digest { return digest.FromString(ref + " " + d.String()) }
	running, hidden := map[digest.Digest]*client.Vertex{}, map[digest.Digest]bool{}
	defer func() {
		now := time.Now()
		for _, v := range running {
			v.Completed = &now
			write(ctx, v.Digest.String(), *v)
		}
	}()
	for {
		res, err := status.Recv()
		if err != nil {
			return
		}
		s := client.NewSolveStatus(res)
		for _, v := range s.Vertexes {
			if v.Name == exporting {
				hidden[v.Digest] = true
				continue
			}
			v.Digest, v.Name = own(v.Digest), fmt.Sprintf("on %s: %s", n.Name, v.Name)
			for i, in := range v.Inputs {
				v.Inputs[i] = own(in)
			}
			write(ctx, v.Digest.String(), *v)
			if delete(running, v.Digest); v.Started != nil && v.Completed == nil {
				running[v.Digest] = v
			}
		}
		for _, log := range s.Logs {
			log.Vertex = own(log.Vertex)
			write(ctx, identity.NewID(), *log)
		}
		for _, st := range s.Statuses {
			if hidden[st.Vertex] {
				continue
			}
			// A status is always of the step in whose context it is written.
			write(ctx, st.ID, progress.Status{
				Action: st.Name, Current: int(st.Current), Total: int(st.Total), Started: st.Started, Completed: st.Completed,
			})
		}
	}
}

func write(ctx context.Context, id string, v any) {
	pw, _, _ := progress.NewFromContext(ctx)
	_ = pw.Write(id, v) // who does not look on misses it
	_ = pw.Close()
}
