// Package farm has the steps of a foreign platform run on another machine that runs them without an emulator. A build stays this
// machine's: what it asks for is split into parts whose steps are all of that platform, the other machine's BuildKit solves these and
// keeps what it made as a build cache, and the solver here goes on with that cache. So the results, their index and the cache that is
// exported are one, and every exporter works as ever; the layers that are wanted here come by their digests.
//
// The other end of the client's session (context, secrets, credentials) is reached through this machine. Where no other machine can do
// it, the steps run here, under an emulator, and the build says so.
package farm

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Node is another machine that builds.
type Node struct {
	ID, Name string
	Dial     func(context.Context) (net.Conn, error) // to its BuildKit API; it has the cache of this package
}

// Blobs brings what another machine has into the store here, by its digest; of is empty.
type Blobs interface {
	Fetch(ctx context.Context, d ocispec.Descriptor, of digest.Digest) error
}

// Options are a farm's surroundings. All are needed.
type Options struct {
	// Nodes are the machines that run a platform natively and can be asked now; ok is false where there are no other machines at all.
	Nodes func(ctx context.Context, p ocispec.Platform) (all []Node, ok bool)
	// Native tells whether this machine runs a platform's programs itself.
	Native func(ocispec.Platform) bool
	// ProxyNetwork has all steps reach the network by a proxy only, as this machine's configuration wants.
	ProxyNetwork bool

	Blobs   Blobs
	Content content.Store
	Leases  *leaseutil.Manager
	Log     *slog.Logger
}

// Farm is safe for concurrent use.
type Farm struct {
	o Options

	mu    sync.Mutex
	work  map[string]*work // by the IDs in the operations' identifiers
	links map[string]*link
	asked map[string][]*controlapi.SolveRequest // that run, by their sessions
}

// New returns a farm.
func New(o Options) *Farm {
	return &Farm{o: o, work: map[string]*work{}, links: map[string]*link{}, asked: map[string][]*controlapi.SolveRequest{}}
}

// work is what one definition wants of other machines.
type work struct {
	id       string
	platform ocispec.Platform
	parts    []*pb.Definition
	imports  []frontend.CacheOptionsEntry // the user's
	sid      string                       // the client's session
	sessions *session.Manager
	nodes    []Node

	made  []ocispec.Descriptor // of each part: its cache; none where nothing came of it
	helps bool                 // something came; guarded by the farm's mutex
}

// Frontend is one whose definitions may be solved elsewhere, in part.
func (f *Farm) Frontend(inner frontend.Frontend) frontend.Frontend { return &farming{inner, f} }

type farming struct {
	frontend.Frontend
	farm *Farm
}

// Solve implements frontend.Frontend.
func (w *farming) Solve(ctx context.Context, llb frontend.FrontendLLBBridge, exec executor.Executor, opt map[string]string,
	inputs map[string]*pb.Definition, sid string, sm *session.Manager,
) (*frontend.Result, error) {
	return w.Frontend.Solve(ctx, &bridge{llb, w.farm, sm}, exec, opt, inputs, sid, sm)
}

// bridge is by which a frontend asks for results.
type bridge struct {
	frontend.FrontendLLBBridge
	farm     *Farm
	sessions *session.Manager
}

// Solve implements frontend.FrontendLLBBridge. As ever, the work is done when the result is looked at.
func (b *bridge) Solve(ctx context.Context, req frontend.SolveRequest, sid string) (*frontend.Result, error) {
	if req.Definition == nil || len(req.Definition.Def) == 0 || req.Frontend != "" || len(req.SourcePolicies) > 0 {
		return b.FrontendLLBBridge.Solve(ctx, req, sid)
	}
	g, err := parse(req.Definition)
	if err != nil {
		return nil, err
	}
	platform, parts := g.split(b.farm.o.Native)
	if len(parts) == 0 {
		return b.FrontendLLBBridge.Solve(ctx, req, sid)
	}
	nodes, ok := b.farm.o.Nodes(ctx, platform)
	if !ok {
		return b.FrontendLLBBridge.Solve(ctx, req, sid)
	}
	w := &work{
		id: identity.NewID(), platform: platform, imports: req.CacheImports, sid: sid, sessions: b.sessions, nodes: nodes,
	}
	for _, p := range parts {
		w.parts = append(w.parts, g.part(p))
	}
	return b.later(ctx, w, g.cached(parts), req, sid)
}

// later returns a result for which other machines are asked when somebody wants it. cached is the definition with which the solver
// here takes for granted what they made.
func (b *bridge) later(
	ctx context.Context, w *work, cached *pb.Definition, req frontend.SolveRequest, sid string,
) (*frontend.Result, error) {
	evaluate := req.Evaluate
	req.Evaluate = false
	plain, err := b.FrontendLLBBridge.Solve(ctx, req, sid)
	if err != nil {
		return nil, err
	}
	req.Definition = cached
	for i := range w.parts {
		entry := frontend.CacheOptionsEntry{Type: CacheType, Attrs: map[string]string{attrWork: w.id, attrPart: strconv.Itoa(i)}}
		req.CacheImports = append(req.CacheImports[:len(req.CacheImports):len(req.CacheImports)], entry)
	}
	helped, err := b.FrontendLLBBridge.Solve(ctx, req, sid)
	if err != nil {
		return nil, err
	}
	b.farm.mu.Lock()
	b.farm.work[w.id] = w
	b.farm.mu.Unlock()
	r := &result{b: b, w: w, sid: sid, plain: plain.Ref, helped: helped.Ref}
	if evaluate {
		if _, err := r.Result(ctx); err != nil {
			return nil, errors.Join(err, r.Release(context.WithoutCancel(ctx)))
		}
	}
	plain.Ref = r
	return plain, nil
}

func (f *Farm) find(id string) *work {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.work[id]
}

// Helps tells whether other machines have steps' results that are looked for here.
func (f *Farm) Helps() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.work {
		if w.helps {
			return true
		}
	}
	return false
}

func (f *Farm) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.work, id)
}

func (w *work) name() string { return platforms.Format(w.platform) }
