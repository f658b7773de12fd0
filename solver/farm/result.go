package farm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/progress/logs"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
)

// result is one for which other machines are asked first.
type result struct {
	b      *bridge
	w      *work
	sid    string
	plain  bksolver.ResultProxy // without their help
	helped bksolver.ResultProxy // with it

	asking sync.Mutex // by who asks
	mu     sync.Mutex // guards what follows
	asked  bool
	err    error
	helps  bool
}

// Result implements solver.ResultProxy.
func (r *result) Result(ctx context.Context) (bksolver.CachedResult, error) {
	if err := r.ask(ctx); err != nil {
		return nil, err
	}
	return r.chosen().Result(ctx)
}

// ask has other machines work, at the first call.
func (r *result) ask(ctx context.Context) error {
	r.asking.Lock()
	defer r.asking.Unlock()
	r.mu.Lock()
	asked, err := r.asked, r.err
	r.mu.Unlock()
	if asked {
		return err
	}
	res, err := r.b.FrontendLLBBridge.Solve(ctx, frontend.SolveRequest{Evaluate: true, Definition: r.w.operation()}, r.sid)
	if err == nil && res.Ref != nil {
		err = res.Ref.Release(context.WithoutCancel(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.err = ctx.Err() == nil, err
	r.helps = r.w.helps
	return err
}

func (r *result) chosen() bksolver.ResultProxy {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.helps {
		return r.helped
	}
	return r.plain
}

func (r *result) ID() string                 { return r.chosen().ID() }
func (r *result) Definition() *pb.Definition { return r.chosen().Definition() }
func (r *result) Provenance() any            { return r.chosen().Provenance() }

func (r *result) Release(ctx context.Context) error {
	r.b.farm.forget(r.w.id)
	return errors.Join(r.plain.Release(ctx), r.helped.Release(ctx))
}

// scheme begins the identifiers of the operations that have other machines work.
const scheme = "gantry-node://"

// operation is the definition of the work itself, by which it is a step of the build: with a name, a log and a duration.
func (w *work) operation() *pb.Definition {
	marshal := func(op *pb.Op) []byte {
		dt, err := op.MarshalVT()
		if err != nil {
			panic(err) // of plain fields
		}
		return dt
	}
	source := marshal(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: scheme + w.id}}})
	d := digest.FromBytes(source).String()
	name := fmt.Sprintf("[%s] build on a node that runs it natively", w.name())
	return &pb.Definition{
		Def: [][]byte{source, marshal(&pb.Op{Inputs: []*pb.Input{{Digest: d}}})},
		Metadata: map[string]*pb.OpMetadata{
			d: {IgnoreCache: true, Description: map[string]string{"llb.customname": name}},
		},
	}
}

// Op is the operation of such an identifier, for the worker; nil when it is another's.
func (f *Farm) Op(identifier string, w worker.Worker) bksolver.Op {
	id, ok := strings.CutPrefix(identifier, scheme)
	if !ok {
		return nil
	}
	return operation{f, id, w}
}

type operation struct {
	farm   *Farm
	id     string
	worker worker.Worker
}

// CacheMap implements solver.Op. No two are the same.
func (o operation) CacheMap(context.Context, bksolver.JobContext, int) (*bksolver.CacheMap, bool, error) {
	return &bksolver.CacheMap{Digest: digest.FromString(scheme + o.id)}, true, nil
}

// Acquire implements solver.Op.
func (o operation) Acquire(context.Context) (bksolver.ReleaseFunc, error) { return func() {}, nil }

// Exec implements solver.Op.
func (o operation) Exec(ctx context.Context, _ bksolver.JobContext, _ []bksolver.Result) ([]bksolver.Result, error) {
	w := o.farm.find(o.id)
	if w == nil {
		return nil, fmt.Errorf("there is no work %s", o.id)
	}
	_, log, flush := logs.NewLogStreams(ctx, false)
	defer log.Close()
	defer flush()
	if err := o.farm.run(ctx, w, func(format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) }); err != nil {
		return nil, err
	}
	return []bksolver.Result{worker.NewWorkerRefResult(nil, o.worker)}, nil
}
