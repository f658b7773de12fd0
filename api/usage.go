package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// Usage tells what takes the space of the disk. It is safe for concurrent use.
type Usage struct {
	Images *Images
	Build  *Build
	Runner *runner.Manager
	Root   string // data root
}

// Routes adds GET /system/df, and gantry's own GET /gantry/disk.
func (u *Usage) Routes(r *Router) {
	r.Handle(http.MethodGet, "/system/df", u.df)
	r.Handle(http.MethodGet, "/gantry/disk", u.why)
}

func (u *Usage) df(w http.ResponseWriter, r *http.Request) error {
	types := r.URL.Query()["type"]
	if len(types) == 0 || before(r, "1.42") {
		types = []string{"container", "image", "volume", "build-cache"}
	}
	var all system.DiskUsage
	for _, t := range types {
		var err error
		switch system.DiskUsageObject(t) {
		case system.ContainerObject:
			all.ContainerUsage, err = u.containers(r.Context())
		case system.ImageObject:
			all.ImageUsage, err = u.images(r.Context())
		case system.VolumeObject:
			all.VolumeUsage, err = u.volumes()
		case system.BuildCacheObject:
			all.BuildCacheUsage, err = u.Build.usage(r.Context())
		default:
			err = fault.Invalid("unknown object type: %s", t)
		}
		if err != nil {
			return err
		}
	}
	verbose := flag(r, "verbose") && !before(r, "1.52")
	old, err := formerly(r, all)
	if err != nil {
		return err
	}
	if before(r, "1.52") {
		return writeJSON(w, http.StatusOK, old)
	}
	if verbose {
		return writeJSON(w, http.StatusOK, all)
	}
	// As Docker, for clients that don't say which version they speak: both.
	answer, err := with(summed(all), old)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

// summed is the usage without its items.
func summed(all system.DiskUsage) system.DiskUsage {
	if u := all.ImageUsage; u != nil {
		c := *u
		c.Items, all.ImageUsage = nil, &c
	}
	if u := all.ContainerUsage; u != nil {
		c := *u
		c.Items, all.ContainerUsage = nil, &c
	}
	if u := all.VolumeUsage; u != nil {
		c := *u
		c.Items, all.VolumeUsage = nil, &c
	}
	if u := all.BuildCacheUsage; u != nil {
		c := *u
		c.Items, all.BuildCacheUsage = nil, &c
	}
	return all
}

// formerly is the usage as versions before 1.52 have it.
func formerly(r *http.Request, all system.DiskUsage) (map[string]any, error) {
	out := map[string]any{}
	if u := all.ImageUsage; u != nil {
		items := []any{}
		for _, s := range u.Items {
			item, err := summaryFor(r, s)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
		out["LayersSize"], out["Images"] = u.TotalSize, items
	}
	if u := all.ContainerUsage; u != nil {
		out["Containers"] = u.Items
	}
	if u := all.VolumeUsage; u != nil {
		out["Volumes"] = u.Items
	}
	if u := all.BuildCacheUsage; u != nil {
		out["BuildCache"] = u.Items
	}
	return out, nil
}

func (u *Usage) images(ctx context.Context) (*image.DiskUsage, error) {
	all, err := u.Images.all(ctx, filters{})
	if err != nil {
		return nil, err
	}
	share(all)
	held := holdings{}
	out := &image.DiskUsage{TotalCount: int64(len(all)), Items: []image.Summary{}}
	for _, l := range all {
		held.add(l.held)
		if l.Containers > 0 {
			out.ActiveCount++
		} else {
			out.Reclaimable += l.Size - l.SharedSize
		}
		l.Manifests = nil
		out.Items = append(out.Items, l.Summary)
	}
	out.TotalSize = held.total()
	return out, nil
}

func (u *Usage) containers(ctx context.Context) (*container.DiskUsage, error) {
	out := &container.DiskUsage{Items: []container.Summary{}}
	records := u.Runner.List()
	slices.SortFunc(records, func(a, b runner.Record) int { return b.Created.Compare(a.Created) })
	for _, rec := range records {
		s := summary(rec)
		s.ImageManifestDescriptor = nil
		var err error
		if s.SizeRw, s.SizeRootFs, err = u.Runner.Size(ctx, rec.ID); err != nil {
			continue // it is being removed
		}
		out.TotalCount++
		out.TotalSize += s.SizeRw
		if rec.State.Running {
			out.ActiveCount++
		} else {
			out.Reclaimable += s.SizeRw
		}
		out.Items = append(out.Items, s)
	}
	return out, nil
}

func (u *Usage) volumes() (*volume.DiskUsage, error) {
	all, err := u.Runner.Volumes()
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", err)
	}
	out := &volume.DiskUsage{TotalCount: int64(len(all)), Items: []volume.Volume{}}
	for _, v := range all {
		d := described(v)
		d.UsageData = &volume.UsageData{Size: int64(bytesBelow(v.Path)), RefCount: int64(len(u.Runner.VolumeUsers(v.Name)))}
		if len(v.Options) > 0 {
			d.UsageData.Size = -1 // it is somebody else's disk
		} else {
			out.TotalSize += d.UsageData.Size
		}
		switch {
		case d.UsageData.RefCount > 0:
			out.ActiveCount++
		case d.UsageData.Size > 0:
			out.Reclaimable += d.UsageData.Size
		}
		out.Items = append(out.Items, d)
	}
	return out, nil
}

// usage is what the build cache takes.
func (b *Build) usage(ctx context.Context) (*build.DiskUsage, error) {
	bk, err := b.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("usage of the build cache: %w", err)
	}
	defer bk.Close()
	all, err := bk.DiskUsage(ctx)
	if err != nil {
		return nil, fmt.Errorf("usage of the build cache: %w", err)
	}
	out := &build.DiskUsage{TotalCount: int64(len(all)), Items: []build.CacheRecord{}}
	for _, r := range all {
		out.TotalSize += r.Size
		switch {
		case r.InUse:
			out.ActiveCount++
		case !r.Shared:
			out.Reclaimable += r.Size
		}
		out.Items = append(out.Items, cacheRecord(r))
	}
	return out, nil
}

func cacheRecord(r *client.UsageInfo) build.CacheRecord {
	return build.CacheRecord{
		ID: r.ID, Parents: r.Parents, Type: string(r.RecordType), Description: r.Description, InUse: r.InUse, Shared: r.Shared,
		Size: r.Size, CreatedAt: r.CreatedAt, LastUsedAt: r.LastUsedAt, UsageCount: r.UsageCount,
	}
}
