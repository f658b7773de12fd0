package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/image"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
)

// pruning says which images go.
type pruning struct {
	all    bool      // also those that have names
	until  time.Time // only those that were made before; zero: all
	labels filters
}

func pruningOf(r *http.Request) (p pruning, err error) {
	f, err := parseFilters(r)
	if err != nil {
		return p, err
	}
	if err := f.only("dangling", "label", "label!", "until"); err != nil {
		return p, err
	}
	for _, v := range f.values("dangling") {
		switch v {
		case "false", "0":
			p.all = true
		case "true", "1":
		default:
			return p, fault.Invalid("invalid filter 'dangling=%s': want true or false", v)
		}
	}
	p.labels = f
	p.until, err = untilOf(f)
	return p, err
}

// takes tells whether a record goes; platforms are the image's.
func (p pruning) takes(rec images.Image, platforms []*cache.Image) bool {
	if !p.all && !cache.IsDangling(rec.Name) || !p.until.IsZero() && !rec.CreatedAt.Before(p.until) {
		return false
	}
	wanted, unwanted := !p.labels.any("label"), false
	for _, img := range platforms {
		labels := img.Config.Config.Labels
		wanted = wanted || p.labels.labels("label", labels)
		unwanted = unwanted || p.labels.any("label!") && p.labels.labels("label!", labels)
	}
	return wanted && !unwanted
}

func (i *Images) prune(w http.ResponseWriter, r *http.Request) error {
	ctx := cache.WithNamespace(r.Context())
	p, err := pruningOf(r)
	if err != nil {
		return err
	}
	records, err := i.Store.Client.ImageService().List(ctx)
	if err != nil {
		return err
	}
	names := map[string]int{} // of each image, by its ID
	for _, rec := range records {
		names[rec.Target.Digest.String()]++
	}
	report := image.PruneReport{ImagesDeleted: []image.DeleteResponse{}}
	for _, rec := range records {
		id := rec.Target.Digest.String()
		platforms := i.platforms(ctx, rec)
		if len(i.Users(id)) > 0 || !p.takes(rec, platforms) {
			continue
		}
		var size uint64
		for _, img := range platforms {
			content, unpacked := i.Store.Size(ctx, img)
			size += uint64(content + unpacked)
		}
		if err := i.Store.Unname(ctx, rec, false); err != nil {
			return err
		}
		report.ImagesDeleted = append(report.ImagesDeleted, untagged(rec)...)
		if names[id]--; names[id] == 0 {
			report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Deleted: id})
			report.SpaceReclaimed += size
		}
	}
	return writeJSON(w, http.StatusOK, report)
}

func untagged(rec images.Image) []image.DeleteResponse {
	tags, _ := names([]images.Image{rec})
	if len(tags) == 0 {
		return nil
	}
	return []image.DeleteResponse{{Untagged: tags[0]}}
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
