package solver

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/qemu"
)

// executors are the ways in which a step's process runs: one for native platforms and one for each
// emulated one, all of them BuildKit's runcexecutor.
type executors struct {
	root      string
	runc      string
	networks  map[pb.NetMode]network.Provider
	proxy     network.ProxyProvider
	config    *config.OCIConfig
	dns       *oci.DNSConfig
	devices   *cdidevices.Manager
	monitor   *resources.Monitor
	platforms Platforms

	mu    sync.Mutex
	made  map[string]executor.Executor
	plain executor.Executor
}

func (e *executors) native() (executor.Executor, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plain == nil {
		plain, err := e.new("native", e.networks, e.proxy)
		if err != nil {
			return nil, err
		}
		e.plain = plain
	}
	return e.plain, nil
}

// forPlatform returns the executor for steps of platform p, and how they run: "native", or the emulator. The
// error says why p can't run here.
func (e *executors) forPlatform(p *pb.Platform) (x executor.Executor, how string, err error) {
	way := qemu.Way{Mode: qemu.Native}
	if p != nil {
		if way, err = e.platforms.Way(p.Spec()); err != nil {
			return nil, "", err
		}
	}
	if way.Mode == qemu.Native {
		x, err = e.native()
	} else {
		x, err = e.emulated(way.Platform)
	}
	return x, way.String(), err
}

// silent is forPlatform for a shell in a step's place, with the memory limit's word.
func (e *executors) silent(p *pb.Platform) (executor.Executor, error) {
	x, _, err := e.forPlatform(p)
	return limited{x}, err
}

func (e *executors) emulated(platform ocispec.Platform) (executor.Executor, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := platform.Architecture + platform.Variant
	if x, ok := e.made[name]; ok {
		return x, nil
	}
	wrapped := map[pb.NetMode]network.Provider{}
	for mode, np := range e.networks {
		wrapped[mode] = emulatedProvider{np, platform, e.platforms}
	}
	x, err := e.new(name, wrapped, emulatedProxy{e.proxy, platform, e.platforms})
	if err != nil {
		return nil, err
	}
	if e.made == nil {
		e.made = map[string]executor.Executor{}
	}
	e.made[name] = x
	return x, nil
}

// refusing is for steps that don't run here: one whose result is known does not have to.
type refusing struct {
	executor.Executor
	why error
}

// Run implements executor.Executor.
func (r refusing) Run(
	context.Context, string, executor.Mount, []executor.Mount, executor.ProcessInfo, chan<- struct{},
) (resourcestypes.Recorder, error) {
	return nil, r.why
}

// announcing tells the reader of a step's log how the step runs.
type announcing struct {
	executor.Executor
	how string
}

// Run implements executor.Executor.
func (a announcing) Run(
	ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{},
) (resourcestypes.Recorder, error) {
	if process.Stderr != nil {
		fmt.Fprintln(process.Stderr, a.how)
	}
	return a.Executor.Run(ctx, id, root, mounts, process, started)
}

func (e *executors) new(name string, networks map[pb.NetMode]network.Provider, proxy network.ProxyProvider) (executor.Executor, error) {
	mode := oci.ProcessSandbox
	if e.config.NoProcessSandbox {
		mode = oci.NoProcessSandbox
	}
	return runcexecutor.New(runcexecutor.Opt{
		Root:                filepath.Join(e.root, "executor", name),
		CommandCandidates:   []string{e.runc},
		ProcessMode:         mode,
		ResourceMonitor:     e.monitor,
		DNS:                 e.dns,
		CDIManager:          e.devices,
		ProxyProvider:       proxy,
		DefaultCgroupParent: e.config.DefaultCgroupParent,
		ApparmorProfile:     e.config.ApparmorProfile,
		SELinux:             e.config.SELinux,
	}, networks)
}

// emulatedProvider edits the OCI spec of each step. A network's Set is the last thing that
// BuildKit asks before runc starts (executor/oci/spec.go, GenerateSpec), and the only place
// where a stock executor lets others at the spec.
type emulatedProvider struct {
	network.Provider
	platform  ocispec.Platform
	platforms Platforms
}

func (p emulatedProvider) New(ctx context.Context, hostname string, o network.NamespaceOptions) (network.Namespace, error) {
	ns, err := p.Provider.New(ctx, hostname, o)
	if err != nil {
		return nil, err
	}
	return emulatedNamespace{ns, p}, nil
}

type emulatedNamespace struct {
	network.Namespace
	p emulatedProvider
}

func (n emulatedNamespace) Set(s *specs.Spec) error {
	if err := n.Namespace.Set(s); err != nil {
		return err
	}
	return edit(n.p.platforms, n.p.platform, s)
}

// emulatedProxy is emulatedProvider for the steps of a build with BuildKit's proxy.
type emulatedProxy struct {
	network.ProxyProvider
	platform  ocispec.Platform
	platforms Platforms
}

func (p emulatedProxy) NewProxy(ctx context.Context, c *network.ProxyConfig) (network.ProxyNamespace, error) {
	ns, err := p.ProxyProvider.NewProxy(ctx, c)
	if err != nil {
		return nil, err
	}
	return emulatedProxyNamespace{ns, p}, nil
}

type emulatedProxyNamespace struct {
	network.ProxyNamespace
	p emulatedProxy
}

func (n emulatedProxyNamespace) Set(s *specs.Spec) error {
	if err := n.ProxyNamespace.Set(s); err != nil {
		return err
	}
	return edit(n.p.platforms, n.p.platform, s)
}

// edit makes the programs of a step's container run here. The way is asked for anew: it may have gone since.
func edit(machine Platforms, p ocispec.Platform, s *specs.Spec) error {
	way, err := machine.Way(p)
	if err != nil {
		return err
	}
	return way.Edit(s)
}
