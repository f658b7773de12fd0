package solver

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/diff/apply"
	bkmeta "github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/linuxresources"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	wlabel "github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/solver/debug"
	"github.com/gantry-build/gantry/solver/explain"
	"github.com/gantry-build/gantry/solver/farm"
	"github.com/gantry-build/gantry/solver/local"
)

// exporterMoby is how Docker's clients call the exporter into the builder's own image store
// (moby/v2, daemon/internal/builder-next/exporter).
const exporterMoby = "moby"

// gantryWorker is BuildKit's worker but for how a foreign platform's steps run, how an image is
// exported and how a local directory is read.
type gantryWorker struct {
	*base.Worker
	exporter func(Exporting) exporter.Exporter
	execs    *executors
	failed   *debug.Steps
	notes    *explain.Notes
	logLimit int64 // of a step, in bytes
	gateway  func() netip.Addr
	scan     Scan
	version  string     // gantry's
	farm     *farm.Farm // nil when all steps run here
}

func newWorker(ctx context.Context, o Options, failed *debug.Steps, notes *explain.Notes) (*gantryWorker, error) {
	logLimit, err := ownStepLogs()
	if err != nil {
		return nil, err
	}
	monitor, err := resources.NewMonitor()
	if err != nil {
		return nil, err
	}
	networks, networkMode, err := stepNetworks(o)
	if err != nil {
		return nil, err
	}
	proxy := newStepProxy(networks)
	devices, err := stepDevices(o.Config.CDI)
	if err != nil {
		return nil, err
	}
	execs := &executors{
		root: o.Root, runc: o.Runc, config: &o.Config.Workers.OCI, platforms: o.Platforms,
		networks: networks, proxy: proxy, dns: stepDNS(o.Config.DNS), devices: devices, monitor: monitor,
	}
	native, err := execs.native()
	if err != nil {
		return nil, err
	}
	bw, err := newBase(ctx, o, networkMode, base.WorkerOpt{
		NetworkProviders: networks, ProxyProvider: proxy, Executor: native, ResourceMonitor: monitor, CDIManager: devices,
	})
	if err != nil {
		return nil, err
	}
	if err := local.Register(bw, notes); err != nil {
		return nil, err
	}
	w := &gantryWorker{
		Worker: bw, exporter: o.Exporter, execs: execs, failed: failed, notes: notes,
		logLimit: logLimit, gateway: gatewayOf(o, networkMode), scan: o.Scan, version: o.Version,
	}
	if o.Farm != nil {
		w.farm = farm.New(farm.Options{
			Nodes: o.Farm.Nodes, Blobs: o.Farm.Blobs, Log: o.Farm.Log, Content: bw.ContentStore(), Leases: bw.LeaseManager(),
			ProxyNetwork: o.Config.ProxyNetwork,
			Native: func(p ocispec.Platform) bool {
				way, err := o.Platforms.Way(p)
				return err == nil && way.Mode != qemu.Emulated
			},
		})
	}
	return w, nil
}

// newBase is BuildKit's worker over the store; opt says how steps run.
func newBase(ctx context.Context, o Options, networkMode string, opt base.WorkerOpt) (*base.Worker, error) {
	id, err := base.ID(o.Root)
	if err != nil {
		return nil, err
	}
	md, err := bkmeta.NewStore(filepath.Join(o.Root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	db := o.Store.DB
	cs := containerdsnapshot.NewContentStore(db.ContentStore(), cache.Namespace)
	opt.ID, opt.Root, opt.MetadataStore = id, o.Root, md
	opt.Labels = map[string]string{
		wlabel.Executor: "oci", wlabel.Snapshotter: cache.Snapshotter, wlabel.Network: networkMode, wlabel.Hostname: hostname(),
	}
	maps.Copy(opt.Labels, o.Config.Workers.OCI.Labels)
	opt.Platforms = o.Platforms.Platforms()
	opt.GCPolicy = gcPolicy(o)
	opt.BuildkitVersion = client.BuildkitVersion{Package: "github.com/moby/buildkit", Version: BuildkitVersion}
	opt.Snapshotter = containerdsnapshot.NewSnapshotter(cache.Snapshotter, db.Snapshotter(cache.Snapshotter), cache.Namespace, nil)
	opt.ContentStore = cs
	opt.Applier, opt.Differ = apply.NewFileSystemApplier(cs), cache.Differ(cs)
	opt.ImageStore = o.Store.Images()
	opt.RegistryHosts = o.Hosts
	opt.LeaseManager = leaseutil.WithNamespace(o.Store.Leases(), cache.Namespace)
	opt.GarbageCollect = db.GarbageCollect
	opt.ParallelismSem = parallelism(o.Config)
	opt.MountPoolRoot = filepath.Join(o.Root, "cachemounts")
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, errors.Join(err, md.Close())
	}
	return w, nil
}

// Platforms implements worker.Worker. What runs here is known; BuildKit's own would start a program
// of each architecture for every client that asks, 25 ms for each build.
func (w *gantryWorker) Platforms(bool) []ocispec.Platform { return w.Worker.WorkerOpt.Platforms }

// LabelGateway tells buildx what host-gateway in --add-host means (moby/v2, builder-next/worker/label).
const LabelGateway = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// Labels implements worker.Worker. The gateway is known when someone asks: until then there may be no bridge.
func (w *gantryWorker) Labels() map[string]string {
	labels := maps.Clone(w.Worker.Labels())
	if ip := w.gateway(); ip.IsValid() {
		labels[LabelGateway] = ip.String()
	}
	return labels
}

func gatewayOf(o Options, networkMode string) func() netip.Addr {
	return sync.OnceValue(func() netip.Addr {
		if networkMode == "host" {
			return netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		ip, err := o.Gateway(context.Background())
		if err != nil {
			slog.Warn("host-gateway has no address in builds", "error", err)
		}
		return ip
	})
}

// Exporter implements worker.Worker. Later registrations of the same name would not replace it.
func (w *gantryWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	if name == exporterMoby {
		name = client.ExporterImage
	}
	exp, err := w.Worker.Exporter(name, sm)
	if err != nil {
		return nil, err
	}
	return w.exporter(Exporting{
		Name: name, Stock: exp, Content: w.ContentStore(), Images: w.ImageStore, Leases: w.LeaseManager(), Sessions: sm,
	}), nil
}

// ResolveOp implements worker.Worker: a step's executor follows from its platform. What base.Worker
// does for exec ops (worker/base/worker.go, v0.34.2) is said again here with another executor.
func (w *gantryWorker) ResolveOp(
	v bksolver.Vertex, s frontend.FrontendLLBBridge, sm *session.Manager, proxy worker.ProxyOpt,
) (bksolver.Op, error) {
	op, ok := v.Sys().(*pb.Op)
	if !ok {
		return w.Worker.ResolveOp(v, s, sm, proxy)
	}
	if src, ok := op.Op.(*pb.Op_Source); ok && src.Source.Identifier == scannerID {
		return scannerImage{w, w.version}, nil
	}
	if src, ok := op.Op.(*pb.Op_Source); ok && w.farm != nil {
		if work := w.farm.Op(src.Source.Identifier, w); work != nil {
			return work, nil
		}
	}
	step, ok := op.Op.(*pb.Op_Exec)
	if !ok {
		return w.Worker.ResolveOp(v, s, sm, proxy)
	}
	if isScanner(step.Exec) {
		return ops.NewExecOp(v, step, op.Platform, w.CacheMgr, w.ParallelismSem, sm, scanning{w.Executor(), w.scan}, w, nil, false)
	}
	exec, how, err := w.execs.forPlatform(op.Platform)
	if err != nil && w.farm != nil && w.farm.Helps() {
		exec, how, err = refusing{w.Executor(), err}, string(qemu.Native), nil // it may have run elsewhere
	}
	if err != nil {
		return nil, err
	}
	w.notes.Runs(v.Digest(), how)
	if how != string(qemu.Native) {
		exec = announcing{exec, how}
	}
	proxied := proxy.Network && step.Exec.Network != pb.NetMode_NONE
	if proxied && proxy.Policy != nil {
		exec = governed{exec, proxy.Policy}
	}
	exec = limited{logged{exec, w.logLimit}}
	var limits *pb.LinuxResources
	if m, ok := v.Options().Metadata.(*linuxresources.Metadata); ok && m != nil {
		limits = m.LinuxResources
	}
	cm, exec := w.failed.Watch(debug.Op{Name: v.Name(), Exec: step.Exec, Platform: op.Platform, Limits: limits}, w.CacheMgr, exec)
	return ops.NewExecOp(v, step, op.Platform, cm, w.ParallelismSem, sm, exec, w, limits, proxied)
}

func hostname() string {
	if h, err := os.Hostname(); err == nil {
		return h
	}
	return "unknown"
}
