// Package trust is the one place that says how gantry talks to a registry
// host: HTTPS or plain HTTP, which authorities are believed, which client
// certificate is shown, which mirrors come first. Resolving FROM, pulling,
// pushing and fetching tokens all ask it, so that what one of them may do the
// others may too.
//
// Its sources are the daemon's configuration, the files below the data root
// that `gantry registry trust` and `--registry-http` write, the authority of
// gantry's own registry, and the certs.d directories that Docker users have.
// The files count at each request: an authority that appears is believed by
// the next one, also by clients that were made before. It holds no logins.
package trust

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/util/resolver"
	resolverconfig "github.com/moby/buildkit/util/resolver/config"
)

// Options name the sources of trust.
type Options struct {
	// Root is the data root: registries.json, certs.d/HOST/*.crt and
	// registry/tls/ca.crt lie below it.
	Root string
	// Static is what the daemon's configuration file says, in the form of
	// buildkitd.toml's [registry."HOST"] tables.
	Static map[string]resolverconfig.RegistryConfig
	// Shared is a directory of the form of Root that SetShared writes; "" where nobody shares.
	Shared string
	// CertDirs are further directories of the form certs.d/HOST; nil means
	// /etc/docker/certs.d and /etc/gantry/certs.d.
	CertDirs []string
	// Log gets warnings about files that cannot be used; nil is slog.Default.
	Log *slog.Logger
}

// Store answers how to reach a registry host. It may be used from any
// goroutine; several processes may have one on the same root.
type Store struct {
	o      Options
	static map[string]resolverconfig.RegistryConfig

	sharing sync.Mutex // by who writes what others share

	mu     sync.Mutex
	routes map[string]*route
	probes map[string]probed
}

// route is what the sources of one stamp add up to.
type route struct {
	stamp string
	hosts []docker.RegistryHost
}

// New returns a store over the sources in o. It reads nothing yet.
func New(o Options) *Store {
	if o.CertDirs == nil {
		o.CertDirs = []string{"/etc/docker/certs.d", "/etc/gantry/certs.d"}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Store{o: o, static: map[string]resolverconfig.RegistryConfig{}, routes: map[string]*route{}, probes: map[string]probed{}}
	for host, c := range o.Static {
		s.static[strings.ToLower(host)] = c
	}
	return s
}

// Hosts lists where to find what host serves: its mirrors in order, then the
// host itself. It is a docker.RegistryHosts of containerd. The clients in the
// answer stay right when files change, may be kept, and share connections.
// Their errors are explained (see Explain). Hosts fails for a name that is no
// registry host and for a file of this host that cannot be used; the error
// names the file.
func (s *Store) Hosts(host string) ([]docker.RegistryHost, error) {
	r, err := s.route(host)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(r.hosts)
	for i := range out {
		out[i].Client = &http.Client{Transport: &live{store: s, host: host, index: i}}
	}
	return out, nil
}

// route builds the host's configuration again only when a source changed, so
// that requests share connections.
func (s *Store) route(name string) (*route, error) {
	host, err := cleanHost(name)
	if err != nil {
		return nil, err
	}
	configs, stamp, err := s.configs(host)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.routes[host]; r != nil && r.stamp == stamp {
		return r, nil
	}
	hosts, err := s.build(host, configs)
	if err != nil {
		return nil, err
	}
	r := &route{stamp: stamp, hosts: hosts}
	s.routes[host] = r
	return r, nil
}

func (s *Store) build(host string, configs map[string]resolverconfig.RegistryConfig) ([]docker.RegistryHost, error) {
	for h, c := range configs {
		usable, err := s.usable(c)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", h, err)
		}
		configs[h] = usable
	}
	hosts, err := resolver.NewRegistryConfig(configs)(host)
	if err != nil {
		return nil, fmt.Errorf("configuring registry %s: %w", host, err)
	}
	// BuildKit gives configured hosts fewer capabilities than unknown ones,
	// and containerd then finds no referrers.
	hosts[len(hosts)-1].Capabilities |= docker.HostCapabilityReferrers
	return hosts, nil
}

// isOwnRegistry tells whether gantry's own registry has a certificate for the host: its authority counts
// for no other, as whoever reads its key could sign for any.
func (s *Store) isOwnRegistry(host string) bool {
	text, err := os.ReadFile(s.registryServer())
	if err != nil {
		return false
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes) // the first one is the server's
		return err == nil && leaf.VerifyHostname(name) == nil
	}
	return false
}

// registryServer is where gantry's own registry keeps its key and certificate.
func (s *Store) registryServer() string {
	return filepath.Join(s.o.Root, "registry", "tls", "server.pem")
}

// registryCA is where gantry's own registry keeps its authority.
func (s *Store) registryCA() string { return filepath.Join(s.o.Root, "registry", "tls", "ca.crt") }
