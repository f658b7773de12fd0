// Package transfer moves images between the store and registries. A layer that has never been
// wanted as bytes is made when it is pushed or saved; the image then has a second digest, by which it is known there.
package transfer

import (
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/gantry-build/gantry/cache"
)

// Credentials are a user's for one registry. The zero value is an anonymous user.
type Credentials struct {
	Username, Password string
	IdentityToken      string // an OAuth2 refresh token, instead of a password
}

// Mover pushes and pulls. It is safe for concurrent use.
type Mover struct {
	Store *cache.Store
	Hosts docker.RegistryHosts // how to reach a registry
	Peers Peers                // other machines that are asked before a registry; nil where there are none
}

// resolver authenticates as c at the hosts that trust names.
func (m *Mover) resolver(c Credentials) remotes.Resolver {
	return m.tracked(c, docker.NewInMemoryTracker())
}

// tracked is resolver that notes in t what of an upload has arrived.
func (m *Mover) tracked(c Credentials, t docker.StatusTracker) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(host string) ([]docker.RegistryHost, error) { return m.hosts(c, host) },
		Tracker: t,
	})
}

// hosts are where a registry's repositories can be, its mirrors before itself. Only itself is told who c is.
func (m *Mover) hosts(c Credentials, registry string) ([]docker.RegistryHost, error) {
	hosts, err := m.Hosts(registry)
	if err != nil || len(hosts) == 0 {
		return nil, err
	}
	own := hosts[len(hosts)-1].Host
	for i := range hosts {
		if hosts[i].Client == nil {
			hosts[i].Client = http.DefaultClient
		}
		hosts[i].Authorizer = docker.NewDockerAuthorizer(
			docker.WithAuthClient(hosts[i].Client),
			docker.WithAuthCreds(func(host string) (string, string, error) {
				if host != own {
					return "", "", nil
				}
				return c.pair()
			}),
		)
	}
	return hosts, nil
}

// pair is how containerd's authorizer wants them: an empty name with a secret is a refresh token.
func (c Credentials) pair() (user, secret string, err error) {
	if c.IdentityToken != "" {
		return "", c.IdentityToken, nil
	}
	return c.Username, c.Password, nil
}

// hostOf is the registry's host of a full image name.
func hostOf(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}
