// Package api speaks the Docker Engine API over the rooms, with moby's own types, so that docker's
// and compose's clients work unchanged, and BuildKit's gRPC on the same socket. It translates and
// decides nothing: requests become calls, errors become statuses, events become JSON.
package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client/pkg/versions"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

const (
	// MaxVersion is the version of moby/moby/api whose types are used.
	MaxVersion = "1.56"
	// MinVersion is that of Docker 19.03; older clients get the fields of their time (age.go).
	MinVersion = "1.40"
	// FloorVersion is the oldest that Options.MinVersion can be: Docker 1.12's.
	FloorVersion = "1.24"
)

// Options are what the API stands on.
type Options struct {
	Runner  *runner.Manager
	Version string       // of gantry
	Root    string       // data root
	Images  func() int   // counts local images, for /info; may be nil
	Log     *slog.Logger // slog's default when nil

	// MinVersion is the oldest version of the API that is served, from FloorVersion on; MinVersion of this package when
	// empty.
	MinVersion string

	Info  func() Facts      // what others know, for /info; may be nil
	Swarm *Swarm            // the cluster's; may be nil
	Extra []func(r *Router) // further endpoints
}

// HandlerFunc answers a request. An error that it returns before it has written anything becomes the
// answer: {"message": ...} with the status of its errdefs class.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Router finds the handler of a request, with or without a version in its path.
type Router struct {
	mux    *http.ServeMux
	log    *slog.Logger
	server string
	min    string // the oldest version of the API
}

// Handle adds an endpoint. pattern is a path of net/http.ServeMux without method, host and version.
func (r *Router) Handle(method, pattern string, h HandlerFunc) {
	r.mux.HandleFunc(method+" "+pattern, func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, h) })
}

// New returns the handler of the whole API.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.MinVersion = cmp.Or(o.MinVersion, MinVersion)
	r := &Router{mux: http.NewServeMux(), log: o.Log, server: "Gantry/" + o.Version + " (linux)", min: o.MinVersion}
	registerSystem(r, o)
	registerPlugins(r)
	registerEvents(r, o.Runner)
	registerContainers(r, o.Runner)
	registerVolumes(r, o.Runner)
	registerNetworks(r, o.Runner, o.Swarm)
	registerLinked(r, o.Runner)
	registerAttach(r, o.Runner)
	registerExec(r, o.Runner)
	if o.Swarm != nil {
		o.Swarm.Routes(r)
	}
	for _, register := range o.Extra {
		register(r)
	}
	r.mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		r.serve(w, req, func(http.ResponseWriter, *http.Request) error {
			return errdefs.ErrNotFound.WithMessage("page not found")
		})
	})
	return r
}

// ServeHTTP implements http.Handler: it takes the version out of the path and checks it.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Api-Version", MaxVersion)
	h.Set("Docker-Experimental", "false")
	h.Set("Ostype", "linux")
	h.Set("Server", r.server)
	version, path, ok := splitVersion(req.URL.Path)
	if !ok {
		r.mux.ServeHTTP(w, req)
		return
	}
	if err := r.checkVersion(version); err != nil {
		r.serve(w, req, func(http.ResponseWriter, *http.Request) error { return err })
		return
	}
	inner := req.Clone(withVersion(req.Context(), version))
	inner.URL.Path = path
	if _, raw, ok := splitVersion(req.URL.RawPath); ok {
		inner.URL.RawPath = raw
	}
	r.mux.ServeHTTP(w, inner)
}

// splitVersion takes /v1.44/rest apart.
func splitVersion(path string) (version, rest string, ok bool) {
	after, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return "", "", false
	}
	version, rest, ok = strings.Cut(after, "/")
	if major, minor, dotted := strings.Cut(version, "."); !ok || !dotted || !number(major) || !number(minor) {
		return "", "", false
	}
	return version, "/" + rest, true
}

func number(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func (r *Router) checkVersion(v string) error {
	switch {
	case versions.LessThan(v, r.min):
		return fault.Invalid("client version %s is too old. Minimum supported API version is %s, "+
			"please upgrade your client to a newer version", v, r.min)
	case versions.GreaterThan(v, MaxVersion):
		return fault.Invalid("client version %s is too new. Maximum supported API version is %s", v, MaxVersion)
	}
	return nil
}
