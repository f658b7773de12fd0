package trust

import (
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// live sends each request the way that the store's files ask for at that
// moment. BuildKit keeps the hosts it was once given for as long as a resolver
// lives (util/resolver/pool.go, v0.34.2): a client with fixed authorities in it
// would not see one that is added until the daemon restarts.
type live struct {
	store *Store
	host  string
	index int // in the hosts of a route: a mirror, or the host itself
}

func (l *live) RoundTrip(req *http.Request) (*http.Response, error) {
	target, own, err := l.target(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	if own && req.URL.Scheme != target.Scheme {
		req = withScheme(req, target.Scheme)
	}
	resp, err := target.Client.Transport.RoundTrip(req)
	if own && (err != nil || resp.StatusCode == http.StatusBadRequest) {
		l.store.forget(strings.ToLower(target.Host))
	}
	if err != nil {
		return nil, Explain(publicName(req.URL.Host), err)
	}
	return resp, nil
}

// Transport sends each request as Hosts would have a client of its host send it, for programs that make their own clients.
// It may be used from any goroutine.
func (s *Store) Transport() http.RoundTripper { return every{s} }

// every is live for whichever host a request is for.
type every struct{ store *Store }

func (e every) RoundTrip(req *http.Request) (*http.Response, error) {
	const itself = 1 << 20 // after all mirrors
	return (&live{store: e.store, host: publicName(req.URL.Host), index: itself}).RoundTrip(req)
}

// target is the registry itself, or for a token server or blob store elsewhere
// the certificates named for that host; where there are none those of the
// registry serve, since a private authority usually signs for both.
func (l *live) target(req *http.Request) (docker.RegistryHost, bool, error) {
	r, err := l.store.route(l.host)
	if err != nil {
		return docker.RegistryHost{}, false, err
	}
	h := r.hosts[min(l.index, len(r.hosts)-1)]
	if strings.EqualFold(req.URL.Host, h.Host) {
		return h, true, nil
	}
	if !l.store.knows(req.URL.Host) {
		return h, false, nil
	}
	other, err := l.store.route(req.URL.Host)
	if err != nil {
		return docker.RegistryHost{}, false, err
	}
	return other.hosts[len(other.hosts)-1], false, nil
}

// knows reports whether a host has certificates of its own.
func (s *Store) knows(host string) bool {
	host, err := cleanHost(host)
	if err != nil {
		return false
	}
	if _, ok := s.static[host]; ok {
		return true
	}
	c := s.config(host, map[string]mark{host: {HTTP: true}}, new(strings.Builder))
	for _, f := range c.RootCAs {
		if f != s.registryCA() {
			return true
		}
	}
	return len(c.KeyPairs) > 0
}

// CloseIdleConnections serves http.Client.
func (l *live) CloseIdleConnections() {
	if r, err := l.store.route(l.host); err == nil {
		r.hosts[min(l.index, len(r.hosts)-1)].Client.CloseIdleConnections()
	}
}

// withScheme leaves the caller's request alone, as http.RoundTripper demands.
func withScheme(req *http.Request, scheme string) *http.Request {
	out := req.WithContext(req.Context())
	u := *req.URL
	u.Scheme = scheme
	out.URL = &u
	return out
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		// The request has failed already; that is the error to return.
		_ = req.Body.Close()
	}
}
