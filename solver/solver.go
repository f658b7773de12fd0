// Package solver is the embedded BuildKit: its controller, its worker and its LLB solver, inside
// this process and over the store's own content, snapshots and leases. It is the only importer of
// BuildKit's daemon side.
//
// Its words are BuildKit's (docs/dev/solver.md there): an LLB definition is a graph of ops; an op
// has a cache key; a ref is an op's result, which is a snapshot; a session is the client's end of a
// build, from which the context and the credentials come.
package solver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/tracing"
	"github.com/moby/buildkit/util/tracing/detect"
	bkversion "github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/solver/debug"
	"github.com/gantry-build/gantry/solver/explain"
	"github.com/gantry-build/gantry/solver/farm"
)

// Platforms is what the solver needs of the machine's emulation; *qemu.Machine has it.
type Platforms interface {
	// Platforms lists what this machine can run, its own platform first.
	Platforms() []ocispec.Platform
	// Way says how a platform's programs run here. The error is a refusal that explains itself.
	Way(p ocispec.Platform) (qemu.Way, error)
}

// Options are the solver's surroundings.
type Options struct {
	Root      string // persistent files
	Store     *cache.Store
	Runc      string // absolute path of runc
	Platforms Platforms
	Hosts     docker.RegistryHosts
	Config    *config.Config // buildkitd.toml's settings
	Version   string         // gantry's own

	// Farm has steps run elsewhere; nil: all run here.
	Farm *Farm

	// Sandbox makes the network namespace of a step that shares none with the host. It is called
	// from many goroutines, and not after Close.
	Sandbox func(context.Context) (Sandbox, error)

	// Gateway is the host's address as steps in sandboxes see it.
	Gateway func(context.Context) (netip.Addr, error)

	// Exporter gives the exporter of a name that stands in for BuildKit's own.
	Exporter func(Exporting) exporter.Exporter
	Scan     Scan // makes SBOMs
	// Requests see what a client asks for before BuildKit does; they may change it.
	Requests []grpc.UnaryServerInterceptor
}

// Farm is how other machines are found that run steps for this one, and how what they made gets here (package farm).
type Farm struct {
	Nodes func(ctx context.Context, p ocispec.Platform) (all []farm.Node, ok bool)
	Blobs farm.Blobs
	Log   *slog.Logger
}

// Exporting is what an exporter is made of.
type Exporting struct {
	Name     string            // BuildKit's: image, oci, local, ...
	Stock    exporter.Exporter // BuildKit's own
	Content  content.Store
	Images   images.Store
	Leases   *leaseutil.Manager
	Sessions *session.Manager
}

// Solver is a started BuildKit.
type Solver struct {
	Server   *grpc.Server // serves BuildKit's API: Control, LLBBridge, health
	Sessions *session.Manager

	controller *control.Controller
	worker     *worker.Controller
	steps      *gantryWorker
	failed     *debug.Steps
	notes      *explain.Notes
	bolts      []interface{ Close() error }
}

// Start returns when builds can be solved. ctx ends the background work.
func Start(ctx context.Context, o Options) (*Solver, error) {
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, err
	}
	if err := sweep(ctx, o.Root, o.Runc); err != nil {
		return nil, err
	}
	bkversion.Version = BuildkitVersion // what Info answers; BuildKit's own build sets it at link time
	s := &Solver{}
	if err := s.start(ctx, o); err != nil {
		s.Close()
		return nil, fmt.Errorf("starting the solver: %w", err)
	}
	return s, nil
}

func (s *Solver) start(ctx context.Context, o Options) error {
	s.failed, s.notes = debug.New(o.Root), explain.NewNotes()
	w, err := newWorker(ctx, o, s.failed, s.notes)
	if err != nil {
		return err
	}
	s.steps = w
	s.bolts = append(s.bolts, w.Worker.MetadataStore)
	s.worker = &worker.Controller{}
	if err := s.worker.Add(w); err != nil {
		return err
	}
	if s.Sessions, err = session.NewManager(); err != nil {
		return err
	}
	fronts, err := frontends(o.Config, s.worker.Infos(), w.farm)
	if err != nil {
		return err
	}
	env, err := provenanceEnv(o.Config.ProvenanceEnvDir)
	if err != nil {
		return err
	}
	steps, err := bboltcachestorage.NewStore(filepath.Join(o.Root, "cache.db"))
	if err != nil {
		return err
	}
	s.bolts = append(s.bolts, steps)
	quick := &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true}
	history, err := boltutil.SafeOpen(filepath.Join(o.Root, "history.db"), 0o600, quick)
	if err != nil {
		return err
	}
	s.bolts = append(s.bolts, history)
	spans := traces() // the controller takes what it sets
	s.controller, err = control.NewController(control.Opt{
		TraceCollector:            detect.Recorder,
		SessionManager:            s.Sessions,
		WorkerController:          s.worker,
		Frontends:                 fronts,
		ProvenanceEnv:             env,
		ResolveCacheExporterFuncs: cacheExporters(o, s.Sessions, w.farm),
		ResolveCacheImporterFuncs: cacheImporters(o, s.Sessions, w.ContentStore(), w.farm),
		CacheManager:              bksolver.NewCacheManager(ctx, "local", steps, worker.NewCacheResultStorage(s.worker)),
		Entitlements:              entitled(o.Config),
		ProxyNetwork:              o.Config.ProxyNetwork,
		HistoryDB:                 history,
		HistoryConfig:             o.Config.History,
		CacheStore:                steps,
		LeaseManager:              w.LeaseManager(),
		ContentStore:              w.ContentStore(),
		GarbageCollect:            w.GarbageCollect,
		GracefulStop:              ctx.Done(),
	})
	if err != nil {
		return err
	}
	s.serve(o, w, spans)
	return nil
}

// serve makes the server of BuildKit's API, with the failed steps' shells beside it.
func (s *Solver) serve(o Options, w *gantryWorker, spans trace.TracerProvider) {
	requests := slices.Clone(o.Requests)
	if w.farm != nil {
		requests = append(requests, w.farm.Asked)
	}
	s.Server = grpc.NewServer(
		grpc.StatsHandler(tracing.ServerStatsHandler(
			otelgrpc.WithTracerProvider(spans), otelgrpc.WithPropagators(propagation.TraceContext{}))),
		grpc.ChainUnaryInterceptor(reclaiming(o.Store), s.failed.Named, s.failed.Usage, s.notes.Asked),
		grpc.ChainUnaryInterceptor(append(requests, grpcerrors.UnaryServerInterceptor)...),
		grpc.ChainStreamInterceptor(s.failed.Pruned, grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	s.controller.Register(s.Server)
	debug.Register(s.Server, s.failed, debug.Runs{Worker: w, Executor: w.execs.silent, Sessions: s.Sessions})
}

// traces keeps the spans of running builds in memory until the build's history record takes them.
// BuildKit's history finds them through a global of its own.
func traces() trace.TracerProvider {
	if detect.Recorder == nil {
		detect.Recorder = detect.NewTraceRecorder()
	}
	return sdktrace.NewTracerProvider(sdktrace.WithSyncer(detect.Recorder))
}

// Failed lists the failed steps that are kept, of the build whose ID begins with build, or of all builds when
// build is empty, the newest first.
func (s *Solver) Failed(build string) []debug.Step {
	if s.failed == nil {
		return nil
	}
	return s.failed.List(build)
}

// Explain returns what was noted of a build that was asked with explain.OptKey.
func (s *Solver) Explain(ref string) explain.Note { return s.notes.Of(ref) }

// Close ends running builds and releases every file.
func (s *Solver) Close() error {
	var errs []error
	if s.failed != nil {
		s.failed.End() // Stop waits for shells
	}
	if s.Server != nil {
		s.Server.Stop()
	}
	if s.failed != nil {
		s.failed.Close()
	}
	if s.controller != nil {
		// It closes the worker, the history and the cache database.
		return s.controller.Close()
	}
	for _, b := range s.bolts {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}
