// Package transfer moves images between the store and registries. A layer that has never been
// wanted as bytes is made when it is pushed or saved; the image then has a second digest, by which it is known there.
package transfer

import (
	"context"
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
)

// Credentials are a user's for one registry. The zero value is an anonymous user.
type Credentials struct {
	Username, Password string
	IdentityToken      string // an OAuth2 refresh token, instead of a password
}

// Progress is told of each blob. It is called from several goroutines at once.
type Progress func(id, status string)

// Mover pushes and pulls. It is safe for concurrent use.
type Mover struct {
	Store *cache.Store
	Hosts docker.RegistryHosts // how to reach a registry
}

// resolver authenticates as c at the hosts that trust names.
func (m *Mover) resolver(c Credentials) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: func(host string) ([]docker.RegistryHost, error) {
			hosts, err := m.Hosts(host)
			if err != nil || len(hosts) == 0 {
				return nil, err
			}
			own := hosts[len(hosts)-1].Host // its mirrors come before it, and are others
			for i := range hosts {
				client := hosts[i].Client
				if client == nil {
					client = http.DefaultClient
				}
				hosts[i].Authorizer = docker.NewDockerAuthorizer(
					docker.WithAuthClient(client),
					docker.WithAuthCreds(func(host string) (string, string, error) {
						if host != own {
							return "", "", nil
						}
						return c.pair()
					}),
				)
			}
			return hosts, nil
		},
	})
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

// watch wraps a handler so that each layer and config that passes is told of.
func watch(p Progress, status string) images.Handler {
	return images.HandlerFunc(func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if p != nil && (images.IsLayerType(d.MediaType) || images.IsConfigType(d.MediaType)) {
			p(d.Digest.Encoded()[:12], status)
		}
		return nil, nil
	})
}
