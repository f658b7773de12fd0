package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/runner"
)

// listed is an image as GET /images/json has it.
type listed struct {
	image.Summary
	held holdings
}

func (i *Images) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("before", "dangling", "label", "label!", "reference", "since", "until"); err != nil {
		return err
	}
	manifests := flag(r, "manifests") && !before(r, "1.47")
	if flag(r, "identity") && !manifests && !before(r, "1.54") {
		return errdefs.ErrInvalidArgument.WithMessage("conflicting options: identity requires manifests=1")
	}
	all, err := i.all(r.Context(), f)
	if err != nil {
		return err
	}
	if flag(r, "shared-size") && !before(r, "1.42") {
		share(all)
	}
	out := []any{}
	for _, l := range all {
		if !manifests {
			l.Manifests = nil
		}
		s, err := summaryFor(r, l.Summary)
		if err != nil {
			return err
		}
		out = append(out, s)
	}
	return writeJSON(w, http.StatusOK, out)
}

// all lists the images that a filter takes, newest first, each with those of its names that it takes.
func (i *Images) all(ctx context.Context, f filters) ([]listed, error) {
	ctx = cache.WithNamespace(ctx)
	filter, err := i.imageFilterOf(ctx, f)
	if err != nil {
		return nil, err
	}
	records, err := i.Store.Client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	byTarget := map[string][]images.Image{}
	var order []string
	for _, rec := range records {
		if !filter.takes(rec, func() []*cache.Image { return i.platforms(ctx, rec) }) {
			continue
		}
		id := rec.Target.Digest.String()
		if byTarget[id] == nil {
			order = append(order, id)
		}
		byTarget[id] = append(byTarget[id], rec)
	}
	containers := i.Records()
	out := []listed{}
	for _, id := range order {
		out = append(out, i.summary(ctx, byTarget[id], containers))
	}
	slices.SortStableFunc(out, func(a, b listed) int { return int(b.Created - a.Created) })
	return out, nil
}

func (i *Images) summary(ctx context.Context, records []images.Image, containers []runner.Record) listed {
	rec := records[0]
	parts := i.parts(ctx, rec, containers)
	l := listed{held: holdings{}}
	l.Summary = image.Summary{
		ID: rec.Target.Digest.String(), Created: rec.CreatedAt.Unix(), Labels: map[string]string{}, Descriptor: &rec.Target,
		SharedSize: -1, Containers: int64(len(users(containers, rec.Target.Digest.String()))),
	}
	l.RepoTags, l.RepoDigests = i.names(ctx, records, parts)
	if pick := best(parts, nil); pick != nil {
		if pick.img.Config.Created != nil {
			l.Created = pick.img.Config.Created.Unix()
		}
		if pick.img.Config.Config.Labels != nil {
			l.Labels = pick.img.Config.Config.Labels
		}
	}
	for _, p := range parts {
		l.Size += p.Size.Total
		l.held.add(p.held)
		l.Manifests = append(l.Manifests, p.ManifestSummary)
	}
	return l
}

// share notes of each image how much of it others have, too.
func share(all []listed) {
	owners := map[string]int{}
	for _, l := range all {
		for k := range l.held {
			owners[k]++
		}
	}
	for n := range all {
		all[n].SharedSize = 0
		for k, size := range all[n].held {
			if owners[k] > 1 {
				all[n].SharedSize += size
			}
		}
	}
}

// users are the containers that were made from the image with this digest, or have it mounted.
func users(containers []runner.Record, target string) (ids []runner.Record) {
	for _, c := range containers {
		if c.Uses(target) {
			ids = append(ids, c)
		}
	}
	return ids
}

// names splits the records of one image into what Docker calls tags and digests. A digest is what a registry has of
// it or, as long as none has, what one would get. Layers that no one has wanted as bytes have none.
func (i *Images) names(ctx context.Context, records []images.Image, parts []part) (tags, digests []string) {
	tags, digests = []string{}, []string{}
	own := i.Store.Pushed(ctx, records[0].Target.Digest).String()
	if own == records[0].Target.Digest.String() && !i.complete(ctx, parts) {
		own = ""
	}
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
		d := rec.Labels[cache.LabelRegistry]
		if d == "" {
			d = own
		}
		if d != "" {
			digests = append(digests, reference.FamiliarName(named)+"@"+d)
		}
	}
	slices.Sort(digests)
	return tags, slices.Compact(digests)
}

// complete tells whether the platforms that are here have all their layers as blobs.
func (i *Images) complete(ctx context.Context, parts []part) bool {
	have := 0
	for _, p := range parts {
		if p.img == nil {
			continue
		}
		for _, layer := range p.img.Layers {
			if _, ok := p.held[layer.Digest.String()]; !ok {
				return false
			}
		}
		have++
	}
	return have > 0
}

// summaryFor is an image as a client's version of the API has it.
func summaryFor(r *http.Request, s image.Summary) (any, error) {
	if before(r, "1.43") && len(s.RepoTags)+len(s.RepoDigests) == 0 {
		s.RepoTags, s.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
	}
	if before(r, "1.48") {
		s.Descriptor = nil
	}
	if before(r, "1.51") {
		s.Containers = -1
	}
	if before(r, "1.44") {
		return with(s, map[string]any{"VirtualSize": s.Size})
	}
	return s, nil
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
