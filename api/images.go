package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
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
	// Users names the containers that were made from an image with this digest.
	Users func(target string) []string
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
	r.Handle(http.MethodGet, "/images/{path...}", byLastWord(map[string]named{"json": i.inspect, "history": i.history, "get": i.saveOne}))
	r.Handle(http.MethodPost, "/images/{path...}", byLastWord(map[string]named{"tag": i.tag, "push": i.push}))
	r.Handle(http.MethodDelete, "/images/{path...}", func(w http.ResponseWriter, req *http.Request) error {
		return i.remove(w, req, req.PathValue("path"))
	})
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

func (i *Images) list(w http.ResponseWriter, r *http.Request) error {
	ctx := cache.WithNamespace(r.Context())
	filters, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := filters.only("reference", "dangling", "label"); err != nil {
		return err
	}
	records, err := i.Store.Client.ImageService().List(ctx)
	if err != nil {
		return err
	}
	byTarget := map[string][]images.Image{}
	var order []string
	for _, rec := range records {
		id := rec.Target.Digest.String()
		if byTarget[id] == nil {
			order = append(order, id)
		}
		byTarget[id] = append(byTarget[id], rec)
	}
	out := []image.Summary{}
	for _, id := range order {
		s := i.summary(ctx, byTarget[id], flag(r, "manifests"))
		if matches(s, filters) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b image.Summary) int { return int(b.Created - a.Created) })
	return writeJSON(w, http.StatusOK, out)
}

// names splits the records of one image into what Docker calls tags and digests. A digest is there when the
// registry has it: an image that was only built has none.
func names(records []images.Image) (tags, digests []string) {
	for _, rec := range records {
		named, err := reference.ParseNormalizedNamed(rec.Name)
		if err != nil || cache.IsDangling(rec.Name) {
			continue
		}
		short := reference.FamiliarString(named)
		if _, ok := named.(reference.Canonical); ok {
			digests = append(digests, short)
			continue
		}
		tags = append(tags, short)
		if d := rec.Labels[cache.LabelRegistry]; d != "" {
			digests = append(digests, reference.FamiliarName(named)+"@"+d)
		}
	}
	slices.Sort(digests)
	return tags, slices.Compact(digests)
}

func (i *Images) summary(ctx context.Context, records []images.Image, manifests bool) image.Summary {
	rec := records[0]
	tags, digests := names(records)
	s := image.Summary{
		ID: rec.Target.Digest.String(), RepoTags: orEmpty(tags), RepoDigests: orEmpty(digests),
		Created: rec.CreatedAt.Unix(), Labels: map[string]string{}, Descriptor: &rec.Target,
		SharedSize: -1, Containers: int64(len(i.Users(rec.Target.Digest.String()))),
	}
	all := i.platforms(ctx, rec)
	if pick := preferred(all); pick != nil {
		if pick.Config.Created != nil {
			s.Created = pick.Config.Created.Unix()
		}
		if pick.Config.Config.Labels != nil {
			s.Labels = pick.Config.Config.Labels
		}
	}
	for _, img := range all {
		m := i.manifest(ctx, img)
		s.Size += m.Size.Total
		if manifests {
			s.Manifests = append(s.Manifests, m)
		}
	}
	return s
}

// preferred is the platform that stands for an image of many: this machine's, or the first.
func preferred(all []*cache.Image) *cache.Image {
	host := platforms.Default()
	var best *cache.Image
	for _, img := range all {
		if host.Match(img.Platform) && (best == nil || host.Less(img.Platform, best.Platform)) {
			best = img
		}
	}
	if best == nil && len(all) > 0 {
		best = all[0]
	}
	return best
}

// manifest tells what one platform takes on the disk, as bytes of blobs and of unpacked files.
func (i *Images) manifest(ctx context.Context, img *cache.Image) image.ManifestSummary {
	m := image.ManifestSummary{
		ID: img.Manifest.Digest.String(), Descriptor: img.Manifest, Available: true, Kind: image.ManifestKindImage,
		ImageData: &image.ImageProperties{Platform: img.Platform},
	}
	m.Size.Content, m.ImageData.Size.Unpacked = i.Store.Size(ctx, img)
	m.Size.Total = m.Size.Content + m.ImageData.Size.Unpacked
	return m
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func matches(s image.Summary, f filters) bool {
	if f.any("dangling") {
		if want := f.has("dangling", "true") || f.has("dangling", "1"); want != (len(s.RepoTags) == 0) {
			return false
		}
	}
	if f.any("label") && !f.labels("label", s.Labels) {
		return false
	}
	if !f.any("reference") {
		return true
	}
	for _, t := range append(slices.Clone(s.RepoTags), s.RepoDigests...) {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			continue
		}
		for _, pattern := range f.values("reference") {
			if ok, _ := reference.FamiliarMatch(pattern, named); ok {
				return true
			}
		}
	}
	return false
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
func platformsOf(r *http.Request) (all []ocispec.Platform, err error) {
	for _, v := range r.URL.Query()["platform"] {
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
