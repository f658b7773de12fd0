package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/transfer"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// Images serves the image half of the Engine API over the store. It is safe for concurrent use.
type Images struct {
	Store *cache.Store
	Mover *transfer.Mover
	Login func(ctx context.Context, host string, c transfer.Credentials) error
	// Find tells what an image's full name means for the cluster, and for which platforms it is.
	Find func(ctx context.Context, name string, c transfer.Credentials) (ocispec.Descriptor, []ocispec.Platform, error)
	// Records are those of all containers, which hold images.
	Records func() []runner.Record
	// Publish makes an event known.
	Publish func(runner.Event)
	// Containers are those of which images can be made.
	Containers *runner.Manager
	// Change applies lines of a Dockerfile to an image's configuration.
	Change func(cfg *dockerspec.DockerOCIImageConfig, lines []string) error
}

// Routes adds the endpoints to r. An image's name may hold slashes, so the last word of the path
// tells the endpoint.
func (i *Images) Routes(r *Router) {
	r.Handle(http.MethodGet, "/images/json", i.list)
	r.Handle(http.MethodPost, "/images/create", i.create)
	r.Handle(http.MethodPost, "/images/prune", i.prune)
	r.Handle(http.MethodPost, "/images/load", i.load)
	r.Handle(http.MethodGet, "/images/get", func(w http.ResponseWriter, req *http.Request) error {
		return i.save(w, req, req.URL.Query()["names"])
	})
	r.Handle(http.MethodGet, "/images/{path...}",
		byLastWord(map[string]named{"json": i.inspect, "history": i.history, "get": i.saveOne, "attestations": i.attestations}))
	r.Handle(http.MethodPost, "/images/{path...}", byLastWord(map[string]named{"tag": i.tag, "push": i.push}))
	r.Handle(http.MethodDelete, "/images/{path...}", func(w http.ResponseWriter, req *http.Request) error {
		return i.remove(w, req, req.PathValue("path"))
	})
	r.Handle(http.MethodGet, "/images/search", i.search)
	r.Handle(http.MethodGet, "/distribution/{path...}", byLastWord(map[string]named{"json": i.distribution}))
	r.Handle(http.MethodPost, "/auth", i.auth)
	r.Handle(http.MethodPost, "/commit", i.commit)
}

// named handles a request about one image.
type named func(w http.ResponseWriter, r *http.Request, name string) error

func byLastWord(verbs map[string]named) HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		path := r.PathValue("path")
		at := strings.LastIndexByte(path, '/')
		if at > 0 {
			if h, ok := verbs[path[at+1:]]; ok {
				return h(w, r, path[:at])
			}
		}
		return fmt.Errorf("page not found: %w", errdefs.ErrNotFound)
	}
}

// Count is the number of local images, for /info.
func (i *Images) Count() int {
	records, err := i.Store.Client.ImageService().List(cache.WithNamespace(context.Background()))
	if err != nil {
		return 0
	}
	targets := map[string]bool{}
	for _, rec := range records {
		targets[rec.Target.Digest.String()] = true
	}
	return len(targets)
}

// platformOf reads the query's platform, as a string (pull) or as JSON (push, inspect); nil when there is none.
func platformOf(r *http.Request) (*ocispec.Platform, error) {
	all, err := platformsOf(r)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if len(all) > 1 {
		return nil, fault.Invalid("%d platforms are given, where one can be", len(all))
	}
	return &all[0], nil
}

// platformsOf is platformOf where there may be several (save, load).
func platformsOf(r *http.Request) ([]ocispec.Platform, error) {
	return decodePlatforms(r.URL.Query()["platform"])
}

func decodePlatforms(values []string) (all []ocispec.Platform, err error) {
	for _, v := range values {
		if v == "" {
			continue
		}
		p, err := parsePlatform(v)
		if err != nil {
			return nil, fmt.Errorf("%q is no platform: %w: %w", v, err, errdefs.ErrInvalidArgument)
		}
		all = append(all, p)
	}
	return all, nil
}
