package transfer

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	remote "github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/gantry-build/gantry/exporter/trust"
)

// Login asks the registry at host whether it knows c. nil means that it does.
func (m *Mover) Login(ctx context.Context, host string, c Credentials) error {
	hosts, err := m.Hosts(host)
	if err != nil {
		return err
	}
	if len(hosts) == 0 {
		return fmt.Errorf("registry %s: no way to it is known", host)
	}
	h := hosts[len(hosts)-1] // the host itself comes after its mirrors
	options := []name.Option{}
	if h.Scheme == "http" {
		options = append(options, name.Insecure)
	}
	reg, err := name.NewRegistry(h.Host, options...)
	if err != nil {
		return err
	}
	base := http.DefaultTransport
	if h.Client != nil && h.Client.Transport != nil {
		base = h.Client.Transport
	}
	who := authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken})
	rt, err := remote.NewWithContext(ctx, reg, who, base, nil)
	if err != nil {
		return trust.Explain(host, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.Scheme+"://"+h.Host+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return trust.Explain(host, err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New("registry " + host + " refuses this name and password")
	}
	return nil
}
