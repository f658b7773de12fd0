package solver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"github.com/moby/buildkit/util/network/netpool"
	"github.com/moby/buildkit/util/network/proxyprovider"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
)

// Sandbox is a network namespace with a way out of the host.
type Sandbox interface {
	io.Closer
	network.Dialer // connects from inside

	// Path names the namespace for runc.
	Path() string
	// Statistics counts the traffic at the host's end: what that has received, the step has sent.
	Statistics() (*netlink.LinkStatistics, error)
}

// stepNetworks are the networks of RUN --network, and the name of the default one. The configuration's
// networkMode says which that is: bridge, a namespace for each step, which is also the default; host; or
// auto, which is bridge where the host can have one, and else host. They are not netproviders.Providers', whose bridge needs CNI plugins.
func stepNetworks(o Options) (map[pb.NetMode]network.Provider, string, error) {
	networks := map[pb.NetMode]network.Provider{
		pb.NetMode_HOST: network.NewHostProvider(),
		pb.NetMode_NONE: network.NewNoneProvider(),
	}
	mode := o.Config.Workers.OCI.NetworkConfig.Mode
	switch mode {
	case "", "bridge":
		mode = "bridge"
		networks[pb.NetMode_UNSET] = newSandboxes(o.Sandbox, nil)
	case "auto":
		mode = "bridge"
		networks[pb.NetMode_UNSET] = newSandboxes(o.Sandbox, networks[pb.NetMode_HOST])
	case "host":
		networks[pb.NetMode_UNSET] = networks[pb.NetMode_HOST]
	case "cni":
		return nil, "", fmt.Errorf(`configuration: networkMode = "cni": CNI plugins are not used here; write "bridge", which needs none`)
	default:
		return nil, "", fmt.Errorf(`configuration: networkMode = %q: want "bridge", "host" or "auto"`, mode)
	}
	return networks, mode, nil
}

// readySandboxes is how many sandboxes are kept ready for steps to come: about as many as start at
// the same moment. Making one takes some 2 ms that a step would wait for.
const readySandboxes = 4

// sandboxes gives each step a sandbox that no step had before: a server's port that lingers in the
// kernel, or a route that an insecure step has set, is never met by another step.
type sandboxes struct {
	pool    *netpool.Pool[*sandboxed]
	instead network.Provider // for a host that can't have sandboxes; nil: that is an error
	worked  atomic.Bool
	warn    sync.Once
	filling sync.Mutex // held while the pool is filled, and for ever after Close
}

func newSandboxes(open func(context.Context) (Sandbox, error), instead network.Provider) *sandboxes {
	p := &sandboxes{instead: instead}
	p.pool = netpool.New(netpool.Opt[*sandboxed]{
		Name:       "step network",
		TargetSize: readySandboxes,
		New: func(ctx context.Context) (*sandboxed, error) {
			s, err := open(ctx)
			if err != nil {
				return nil, err
			}
			return &sandboxed{s, p}, nil
		},
		Release: func(s *sandboxed) error { return s.Sandbox.Close() },
	})
	return p
}

// New implements network.Provider.
func (p *sandboxes) New(ctx context.Context, hostname string, o network.NamespaceOptions) (network.Namespace, error) {
	ns, err := p.pool.Get(ctx)
	switch {
	case err == nil:
		p.worked.Store(true)
		go p.fill()
		return ns, nil
	case p.instead == nil || p.worked.Load() || ctx.Err() != nil:
		return nil, fmt.Errorf("%w; networkMode = \"host\" below [worker.oci] in the configuration does without", err)
	}
	p.warn.Do(func() {
		slog.Warn("build steps share the host's network, as they can have none of their own", "error", err)
	})
	return p.instead.New(ctx, hostname, o)
}

func (p *sandboxes) fill() {
	if p.filling.TryLock() {
		defer p.filling.Unlock()
		p.pool.Fill(context.Background())
	}
}

// Close implements network.Provider. It returns when nothing is being made any more.
func (p *sandboxes) Close() error {
	err := p.pool.Close()
	p.filling.Lock()
	return err
}

// sandboxed is a sandbox as BuildKit's executor wants it.
type sandboxed struct {
	Sandbox
	of *sandboxes
}

// Set implements network.Namespace.
func (s *sandboxed) Set(spec *specs.Spec) error {
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.Path()})(nil, nil, nil, spec)
}

// Close implements network.Namespace.
func (s *sandboxed) Close() error {
	err := s.of.pool.Discard(s)
	go s.of.fill()
	return err
}

// Sample implements network.Namespace, from the step's point of view.
func (s *sandboxed) Sample() (*resourcestypes.NetworkSample, error) {
	host, err := s.Statistics()
	if err != nil {
		return nil, err
	}
	return &resourcestypes.NetworkSample{
		TxBytes: int64(host.RxBytes), TxPackets: int64(host.RxPackets), TxErrors: int64(host.RxErrors), TxDropped: int64(host.RxDropped),
		RxBytes: int64(host.TxBytes), RxPackets: int64(host.TxPackets), RxErrors: int64(host.TxErrors), RxDropped: int64(host.TxDropped),
	}, nil
}

// stepProxy is BuildKit's proxy for the steps of builds that ask for it (buildctl build --proxy-network).
// It is made when the first one does: its certificate authority takes 100 to 260 ms.
type stepProxy struct {
	make func() (network.ProxyProvider, error)
	mu   sync.Mutex
	made network.ProxyProvider
}

func newStepProxy(networks map[pb.NetMode]network.Provider) *stepProxy {
	return &stepProxy{make: func() (network.ProxyProvider, error) {
		return proxyprovider.New(proxyprovider.Opt{
			Root: filepath.Join(os.TempDir(), "proxy"), // the next daemon unmounts what a killed one has left there
			EgressProviders: map[pb.NetMode]network.Provider{
				pb.NetMode_UNSET: networks[pb.NetMode_UNSET], pb.NetMode_HOST: networks[pb.NetMode_HOST],
			},
		})
	}}
}

// NewProxy implements network.ProxyProvider.
func (p *stepProxy) NewProxy(ctx context.Context, c *network.ProxyConfig) (network.ProxyNamespace, error) {
	p.mu.Lock()
	if p.made == nil {
		made, err := p.make()
		if err != nil {
			p.mu.Unlock()
			return nil, fmt.Errorf("making the proxy for build steps: %w", err)
		}
		p.made = made
	}
	made := p.made
	p.mu.Unlock()
	return made.NewProxy(ctx, c)
}

// Close implements network.ProxyProvider.
func (p *stepProxy) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made == nil {
		return nil
	}
	return p.made.Close()
}

// governed is an executor whose steps reach by the proxy what the build's policy allows (BuildKit's
// proxyPolicyExecutor in worker/base/worker.go, which is not exported).
type governed struct {
	executor.Executor
	policy func() (network.ProxyPolicy, error)
}

func (g governed) Run(
	ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{},
) (resourcestypes.Recorder, error) {
	if err := g.apply(process); err != nil {
		return nil, err
	}
	return g.Executor.Run(ctx, id, root, mounts, process, started)
}

func (g governed) Exec(ctx context.Context, id string, process executor.ProcessInfo) error {
	if err := g.apply(process); err != nil {
		return err
	}
	return g.Executor.Exec(ctx, id, process)
}

func (g governed) apply(process executor.ProcessInfo) (err error) {
	if process.Meta.Proxy != nil {
		process.Meta.Proxy.Policy, err = g.policy()
	}
	return err
}
