package command

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/moby/client/pkg/versions"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/gantry-build/gantry/api"
	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/shim"
	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/exporter/attest"
	"github.com/gantry-build/gantry/exporter/image"
	"github.com/gantry-build/gantry/exporter/sbom"
	"github.com/gantry-build/gantry/exporter/transfer"
	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/frontend"
	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/internal/payload"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/ipam"
	"github.com/gantry-build/gantry/solver"
)

// daemon is every room, started and wired.
type daemon struct {
	at      *place
	cfg     settings
	log     *slog.Logger
	since   time.Time
	qemu    *qemu.Machine
	store   *cache.Store
	solver  *solver.Solver
	network *network.Host
	runner  *runner.Manager
	server  *api.Server
	cluster *cluster.Cluster
	mover   *transfer.Mover
	nodes   *nodes
	build   *api.Build
	stop    chan struct{} // a request to stop
	end     context.CancelFunc
	closers []func() // in the order of opening
}

// openDaemon starts the rooms from the store upwards and returns when the socket answers. On
// failure everything that was started is closed again.
func openDaemon(ctx context.Context, at *place, cfg settings, log *slog.Logger) (_ *daemon, err error) {
	if err := needRoot().Error(); err != nil {
		return nil, err
	}
	d := &daemon{at: at, cfg: cfg, log: log, since: time.Now(), stop: make(chan struct{}, 1)}
	ctx, d.end = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	unlock, err := cache.Lock(at.Root())
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, unlock, d.removeState)
	if err := prepareDirs(at); err != nil {
		return nil, err
	}
	bin := filepath.Join(at.Root(), "bin")
	if err := removeOldEngines(bin); err != nil {
		log.Warn("old versions could not be removed", "error", err)
	}
	runc, err := payload.Extract(bin, "runc")
	if err != nil {
		return nil, err
	}
	if d.qemu, err = qemu.Start(ctx, at.emulation(cfg.emulation, log)); err != nil {
		return nil, err
	}
	d.closers = append(d.closers, d.closeEmulation)
	if err := d.openStore(ctx, bin, runc); err != nil {
		return nil, err
	}
	if err := d.openNetwork(ctx, cfg.pools); err != nil {
		return nil, err
	}
	d.openNodes()
	trusted := trust.New(trust.Options{Root: at.Root(), Shared: at.sharedTrust(), Static: cfg.Registries, Log: log})
	var eg errgroup.Group // the one restores containers while the other opens databases
	eg.Go(func() error { return d.openSolver(ctx, cfg.Config, runc, trusted) })
	eg.Go(func() error { return d.openRunner(ctx) })
	err = eg.Wait()
	d.closers = append(d.closers, d.closeRunner, d.closeSolver)
	if err != nil {
		return nil, err
	}
	d.mover = &transfer.Mover{Store: d.store, Hosts: trusted.Hosts, Peers: d.nodes.peers}
	d.build = api.NewBuild(d.solver.Sessions, d.solver.Server)
	if err := d.openCluster(trusted); err != nil {
		return nil, err
	}
	return d, d.listen()
}

// carriedEmulators unpacks the emulators that this binary carries. One that can't be had is left
// out, and its platform is refused with a reason when it is asked for.
func carriedEmulators(bin string) map[string]qemu.Emulator {
	found := map[string]qemu.Emulator{}
	for _, arch := range []string{"arm", "arm64", "amd64"} {
		name := qemu.Program(arch)
		if path, err := payload.Extract(bin, name); err == nil {
			found[arch] = qemu.Emulator{Path: path, Version: payload.Version(name)}
		}
	}
	return found
}

func (d *daemon) openStore(ctx context.Context, bin, runc string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := payload.Extract(bin, shim.Name)
	if err != nil {
		return err
	}
	// Running containers remember the shim's path, so it stays the same when the program is replaced.
	link, err := linkTo(program, filepath.Join(bin, shim.Name))
	if err != nil {
		return err
	}
	// The shim looks for runc in PATH when containerd asks what it can do.
	if _, err := linkTo(runc, filepath.Join(bin, "runc")); err != nil {
		return err
	}
	// Nor does BuildKit unpack xz itself.
	if _, err := linkTo(self, filepath.Join(bin, compressed.XZ)); err != nil {
		return err
	}
	if err := os.Setenv("PATH", bin+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	d.store, err = cache.Start(ctx, cache.Options{
		Root: filepath.Join(d.at.Root(), "store"), State: filepath.Join(d.at.State(), "store"), Shim: link, Runc: runc,
		Temp: filepath.Join(d.at.Root(), "tmp"),
	})
	if err != nil {
		return errors.Join(err, cache.CheckOverlay(d.at.Root()).Error())
	}
	d.closers = append(d.closers, d.store.Close)
	return nil
}

func (d *daemon) openSolver(ctx context.Context, cfg *config.Config, runc string, trusted *trust.Store) (err error) {
	d.solver, err = solver.Start(ctx, solver.Options{
		Root: filepath.Join(d.at.Root(), "solver"), Store: d.store, Runc: runc, Config: cfg, Version: thin.Version,
		Platforms: d.qemu, Hosts: d.nodes.hosts(trusted.Hosts), Farm: d.nodes.farm(),
		Sandbox: d.sandbox, Gateway: d.network.Default().Up, Scan: listSoftware,
		Requests: []grpc.UnaryServerInterceptor{d.roomToBuild, attest.OwnScanner(solver.Scanner, solver.ScannerEpoch), image.SharedLayers},
		Exporter: func(e solver.Exporting) exporter.Exporter {
			if e.Name != client.ExporterImage {
				return e.Stock
			}
			return image.New(image.Options{
				Stock: e.Stock, Store: d.store, Content: e.Content, Leases: e.Leases, Sessions: e.Sessions,
				Hosts: trusted.Hosts, Made: d.made,
			})
		},
	})
	return err
}

// made publishes that a build has made an image, and what it is called. The runner is there before anyone can build.
func (d *daemon) made(id digest.Digest, names []string) {
	tell := func(action, name string) {
		d.runner.Publish(runner.Event{Type: "image", Action: action, ID: id.String(), Attributes: map[string]string{"name": name}})
	}
	tell("create", id.String())
	for _, n := range names {
		if named, err := reference.ParseNormalizedNamed(n); err == nil && !cache.IsDangling(n) {
			tell("tag", reference.FamiliarString(named))
		}
	}
}

// listSoftware makes the SBOM of a build's result, or of a stage or the context that it was made of.
func listSoftware(ctx context.Context, root, name string, created time.Time) ([]byte, error) {
	doc, err := sbom.Scan(ctx, root, sbom.Options{Name: name, Time: created, Tool: "gantry-" + thin.Version})
	if err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func (d *daemon) closeSolver() {
	if d.solver == nil {
		return
	}
	if err := d.solver.Close(); err != nil {
		d.log.Warn("closing the solver", "error", err)
	}
}

func (d *daemon) openNetwork(ctx context.Context, pools []ipam.Range) (err error) {
	bridge, table := d.at.networkNames()
	d.network, err = network.Open(ctx, network.Options{
		Name: bridge, Table: table, State: filepath.Join(d.at.Root(), "network"), Namespace: d.qemu.NewNetwork,
		Pools: pools,
	})
	if err == nil {
		d.closers = append(d.closers, d.closeNetwork)
	}
	return err
}

func (d *daemon) openRunner(ctx context.Context) (err error) {
	init, err := payload.Extract(filepath.Join(d.at.Root(), "bin"), initProgram)
	if err != nil {
		d.log.Warn("containers can't have an init", "error", err)
	}
	d.runner, err = runner.Start(ctx, runner.Options{Init: init, CDI: d.cfg.devices(),
		Root: d.at.Root(), State: filepath.Join(d.at.State(), "runner"), Store: d.store, Qemu: d.qemu, Network: d.network, Log: d.log,
		Resumed: tookIdleMark(d.at),
	})
	return err
}

// removeState takes the runtime directory away when nothing runs that needs it.
func (d *daemon) removeState() {
	if d.runner == nil || d.runner.Running() > 0 {
		return
	}
	err := solver.UnmountBelow(d.at.State()) // never delete through a mount
	if err == nil {
		err = os.RemoveAll(d.at.State())
	}
	if err != nil {
		d.log.Warn("the runtime directory could not be removed", "error", err)
	}
}

func (d *daemon) closeEmulation() {
	if err := d.qemu.Close(); err != nil {
		d.log.Warn("closing the emulation", "error", err)
	}
}

func (d *daemon) closeRunner() {
	if d.runner == nil {
		return
	}
	if err := d.runner.Close(); err != nil {
		d.log.Warn("closing the runner", "error", err)
	}
	d.qemu.Leave(d.runner.Emulated()...)
}

// sandbox is the containers' network as the solver sees it: as with Docker, a step is on the same
// bridge as containers that ask for no other.
func (d *daemon) sandbox(ctx context.Context) (solver.Sandbox, error) {
	s, err := d.network.Default().NewSandbox(ctx)
	if err != nil {
		return nil, err // not a nil *network.Sandbox in an interface
	}
	return s, nil
}

// closeNetwork leaves the host as it was when no container needs the bridge any more.
func (d *daemon) closeNetwork() {
	if d.runner != nil && d.runner.Running() == 0 {
		if err := d.network.Clear(context.Background()); err != nil {
			d.log.Warn("the bridge network could not be removed", "error", err)
		}
	}
	if err := d.network.Close(); err != nil {
		d.log.Warn("closing the bridge network", "error", err)
	}
}

func (d *daemon) listen() error {
	images := &api.Images{
		Store: d.store, Mover: d.mover, Login: d.mover.Login, Find: d.findImage, Records: d.runner.List, Publish: d.runner.Publish,
		Containers: d.runner, Change: frontend.Change,
	}
	d.build.Pruned = d.runner.Publish
	usage := &api.Usage{Images: images, Build: d.build, Runner: d.runner, Root: d.at.Root()}
	handler := api.New(api.Options{
		Runner: d.runner, Version: thin.Version, MinVersion: minVersion(d.log), Root: d.at.Root(), Images: images.Count, Log: d.log,
		Info: d.facts, Swarm: &api.Swarm{Cluster: d.cluster, Platforms: d.imagePlatforms},
		Extra: []func(*api.Router){images.Routes, d.build.Routes, usage.Routes, d.routes},
	})
	l, err := listenUnix(d.at.Socket())
	if err != nil {
		return err
	}
	d.server = api.Serve(l, handler, d.build)
	d.closers = append(d.closers, d.server.Close)
	if d.cfg.metrics == "" {
		return nil
	}
	return d.serveMetrics(d.cfg.metrics)
}

// initProgram is the name of the carried program that is process 1 with --init.
const initProgram = "docker-init"

// minVersion is the oldest version of the API that is served, when the environment says so as it does to dockerd.
func minVersion(log *slog.Logger) string {
	v := os.Getenv("DOCKER_MIN_API_VERSION")
	if v != "" && (versions.LessThan(v, api.FloorVersion) || versions.GreaterThan(v, api.MaxVersion)) {
		log.Warn("DOCKER_MIN_API_VERSION is ignored", "value", v, "from", api.FloorVersion, "to", api.MaxVersion)
		return ""
	}
	return v
}

// routes are gantry's own endpoints.
func (d *daemon) routes(r *api.Router) {
	r.Handle(http.MethodGet, "/gantry/status", func(w http.ResponseWriter, _ *http.Request) error {
		s := status{
			PID: os.Getpid(), Version: thin.Version, Root: d.at.Root(), Socket: d.at.Socket(), Since: d.since,
			Containers: d.runner.Running(),
		}
		s.Ways = ways(d.qemu)
		for _, w := range s.Ways {
			s.Platforms = append(s.Platforms, w.Platform)
		}
		return json.NewEncoder(w).Encode(s)
	})
	r.Handle(http.MethodGet, "/gantry/failed", func(w http.ResponseWriter, _ *http.Request) error {
		return json.NewEncoder(w).Encode(d.solver.Failed(""))
	})
	r.Handle(http.MethodGet, "/gantry/explain/{build}", func(w http.ResponseWriter, r *http.Request) error {
		return json.NewEncoder(w).Encode(d.solver.Explain(r.PathValue("build")))
	})
	r.Handle(http.MethodPost, "/gantry/stop", func(w http.ResponseWriter, _ *http.Request) error {
		// The answer is sent first: the end closes this connection, too.
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
		err := http.NewResponseController(w).Flush()
		select {
		case d.stop <- struct{}{}:
		default:
		}
		return err
	})
}

// Close ends the rooms in the reverse order of their opening.
func (d *daemon) Close() {
	d.end()
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
	d.closers = nil
}
