package solver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
)

// box is a sandbox of which only its being there counts.
type box struct {
	network.Dialer
	closed chan struct{}
}

func (b box) Path() string { return "/proc/1/ns/net" }
func (b box) Statistics() (*netlink.LinkStatistics, error) {
	return &netlink.LinkStatistics{RxBytes: 1, TxBytes: 2}, nil
}
func (b box) Close() error { close(b.closed); return nil }

func withMode(o Options, mode string) Options {
	o.Config = &config.Config{}
	o.Config.Workers.OCI.NetworkConfig.Mode = mode
	return o
}

func hasNetwork(s *specs.Spec) (path string, separate bool) {
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return n.Path, true
		}
	}
	return "", false
}

// A step never gets the host's network because its own can't be made, unless the configuration says so.
func TestNoSandboxNoStep(t *testing.T) {
	broken := Options{Sandbox: func(context.Context) (Sandbox, error) { return nil, errors.New("no bridge") }}
	for mode, fallsBack := range map[string]bool{"": false, "bridge": false, "auto": true, "host": true} {
		networks, _, err := stepNetworks(withMode(broken, mode))
		if err != nil {
			t.Fatal(err)
		}
		ns, err := networks[pb.NetMode_UNSET].New(t.Context(), "", network.NamespaceOptions{})
		switch {
		case !fallsBack && (err == nil || !strings.Contains(err.Error(), "no bridge") || !strings.Contains(err.Error(), "networkMode")):
			t.Errorf("%q: %v", mode, err)
		case fallsBack && err != nil:
			t.Errorf("%q: %v", mode, err)
		case fallsBack:
			ns.Close()
		}
	}
	for _, bad := range []string{"cni", "none"} {
		if _, _, err := stepNetworks(withMode(broken, bad)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Each step has a sandbox that no other had, and none is left when the provider is closed.
func TestSandboxesAreUsedOnce(t *testing.T) {
	made := make(chan box, 100)
	networks, _, err := stepNetworks(withMode(Options{Sandbox: func(context.Context) (Sandbox, error) {
		b := box{closed: make(chan struct{})}
		made <- b
		return b, nil
	}}, ""))
	if err != nil {
		t.Fatal(err)
	}
	p := networks[pb.NetMode_UNSET]
	seen := map[Sandbox]bool{}
	for range 10 {
		ns, err := p.New(t.Context(), "", network.NamespaceOptions{})
		if err != nil {
			t.Fatal(err)
		}
		own := ns.(*sandboxed).Sandbox
		if seen[own] {
			t.Fatal("a sandbox was used twice")
		}
		seen[own] = true
		spec := &specs.Spec{Linux: &specs.Linux{}}
		if err := ns.Set(spec); err != nil {
			t.Fatal(err)
		}
		if path, separate := hasNetwork(spec); !separate || path != own.Path() {
			t.Errorf("the step's network is %q", path)
		}
		if s, err := ns.Sample(); err != nil || s.TxBytes != 1 || s.RxBytes != 2 {
			t.Errorf("what the host's end has received the step has sent: %+v, %v", s, err)
		}
		if err := ns.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	close(made)
	for b := range made {
		select {
		case <-b.closed:
		default:
			t.Fatal("a sandbox is left")
		}
	}
}
