package solver

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/containerd/platforms"
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

// forPlatform returns the executor for steps of platform p. The error says why p can't run here.
func (e *executors) forPlatform(p *pb.Platform) (executor.Executor, error) {
	if p == nil {
		return e.native()
	}
	platform := platforms.Normalize(ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
	emulator, err := e.platforms.Edit(platform, &specs.Spec{Linux: &specs.Linux{}})
	if err != nil {
		return nil, err
	}
	if emulator == "" {
		return e.native()
	}
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
	said := announcing{x, fmt.Sprintf("emulated %s, %s", platforms.Format(platform), emulator)}
	e.made[name] = said
	return said, nil
}

// announcing says in each step's log how the step runs.
type announcing struct {
	executor.Executor
	how string
}

func (a announcing) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
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
	_, err := n.p.platforms.Edit(n.p.platform, s)
	return err
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
	_, err := n.p.platforms.Edit(n.p.platform, s)
	return err
}
