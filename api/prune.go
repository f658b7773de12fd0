package api

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/runner"
)

func (i *Images) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("dangling", "label", "label!", "until"); err != nil {
		return err
	}
	report, err := i.pruneBy(cache.WithNamespace(r.Context()), f)
	if err != nil {
		return err
	}
	i.Publish(runner.Event{Type: "image", Action: "prune", Attributes: map[string]string{
		"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10),
	}})
	return writeJSON(w, http.StatusOK, report)
}

func (i *Images) pruneBy(ctx context.Context, f filters) (image.PruneReport, error) {
	report := image.PruneReport{ImagesDeleted: []image.DeleteResponse{}}
	gone, err := i.unused(ctx, f)
	if err != nil {
		return report, err
	}
	var held []holdings
	manifests := map[string]bool{}
	for _, rec := range gone {
		h := holdings{rec.Target.Digest.String(): rec.Target.Size}
		manifests[rec.Target.Digest.String()] = true
		for _, p := range i.parts(ctx, rec, nil) {
			h.add(p.held)
			manifests[p.ID] = true
		}
		held = append(held, h)
	}
	for n, rec := range gone {
		if err := i.Store.Unname(ctx, rec, false); err != nil {
			return report, err
		}
		if u := untagged(rec); len(u) > 0 {
			report.ImagesDeleted = append(report.ImagesDeleted, u...)
			i.tell(ctx, "untag", rec.Target, rec.Name)
		}
		id := rec.Target.Digest.String()
		same, err := i.Store.Client.ImageService().List(ctx, "target.digest=="+id)
		if err != nil {
			return report, err
		}
		if len(same) == 0 {
			i.tell(ctx, "delete", rec.Target, id)
		}
		for _, k := range slices.Sorted(maps.Keys(held[n])) {
			gone := !i.exists(ctx, k)
			if gone {
				report.SpaceReclaimed += uint64(held[n][k])
			}
			if manifests[k] && (gone || k == id && len(same) == 0) { // a build may hold its blobs
				report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Deleted: k})
			}
		}
	}
	return report, nil
}

// unused lists the names that a prune takes away, in order: none that a container was given, and not the last one of
// an image that a container has by its ID or digest.
func (i *Images) unused(ctx context.Context, f filters) ([]images.Image, error) {
	danglingOnly := true
	all, err := f.boolean("dangling")
	if err != nil {
		return nil, err
	}
	if all != nil {
		danglingOnly = *all
	}
	rest := maps.Clone(f)
	delete(rest, "dangling")
	filter, err := i.imageFilterOf(ctx, rest)
	if err != nil {
		return nil, err
	}
	records, err := i.Store.Client.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(records, func(a, b images.Image) int { return strings.Compare(a.Name, b.Name) })
	left := map[string]int{} // names of each image
	for _, rec := range records {
		left[rec.Target.Digest.String()]++
	}
	containers := i.Records()
	var gone []images.Image
	for _, rec := range records {
		id := rec.Target.Digest.String()
		if danglingOnly && !cache.IsDangling(rec.Name) || !filter.takes(rec, func() []*cache.Image { return i.platforms(ctx, rec) }) {
			continue
		}
		using := users(containers, id)
		if left[id] == 1 && len(using) > 0 || slices.ContainsFunc(using, func(c runner.Record) bool { return c.NamesImage(rec.Name) }) {
			continue
		}
		left[id]--
		gone = append(gone, rec)
	}
	return gone, nil
}

// exists tells whether a blob or snapshot of an image's holdings is still there.
func (i *Images) exists(ctx context.Context, key string) bool {
	var err error
	if chain, snapshot := strings.CutPrefix(key, ofSnapshot); snapshot {
		_, err = i.Store.Client.SnapshotService(cache.Snapshotter).Stat(ctx, chain)
	} else {
		_, err = i.Store.Client.ContentStore().Info(ctx, digest.Digest(key))
	}
	return !errdefs.IsNotFound(err)
}

func untagged(rec images.Image) []image.DeleteResponse {
	named, err := reference.ParseNormalizedNamed(rec.Name)
	if err != nil || cache.IsDangling(rec.Name) {
		return nil
	}
	return []image.DeleteResponse{{Untagged: reference.FamiliarString(named)}}
}

// platforms are those of an image that can be read. The rest is said in the log: one broken blob hides
// neither its image nor any other.
func (i *Images) platforms(ctx context.Context, rec images.Image) []*cache.Image {
	all, err := i.Store.Manifests(ctx, rec)
	if err != nil {
		slog.Warn("an image is broken; remove it, or pull it again", "image", rec.Name, "error", err)
	}
	return all
}
