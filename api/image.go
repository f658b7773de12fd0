package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
)

func parsePlatform(v string) (ocispec.Platform, error) {
	if strings.HasPrefix(v, "{") {
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(v), &p); err != nil {
			return p, err
		}
		if p.Architecture != "" {
			return platforms.Normalize(p), nil
		}
		v = p.OS
	}
	p, err := platforms.Parse(v)
	return platforms.Normalize(p), err
}

func (i *Images) inspect(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	manifests := flag(r, "manifests")
	if manifests && p != nil {
		return errdefs.ErrInvalidArgument.WithMessage("conflicting options: manifests and platform options cannot both be set")
	}
	rec, err := i.Store.Lookup(ctx, name)
	if err != nil {
		return err
	}
	same, err := i.Store.Client.ImageService().List(ctx, "target.digest=="+rec.Target.Digest.String())
	if err != nil {
		return err
	}
	parts := i.parts(ctx, rec, i.Records())
	pick := best(parts, p)
	if pick == nil && p != nil {
		return fmt.Errorf("image with reference %s was found but does not provide the specified platform (%s): %w",
			name, platforms.Format(*p), errdefs.ErrNotFound)
	}
	out, err := i.describe(ctx, rec, same, parts, pick)
	if err != nil {
		return err
	}
	if p != nil {
		out.ID, out.Descriptor = pick.ID, &pick.Descriptor
	}
	if manifests {
		for _, m := range parts {
			out.Manifests = append(out.Manifests, m.ManifestSummary)
		}
	}
	answer, err := inspectFor(r, out)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

// describe is an image by the platform that stands for it; pick is nil when none can be read.
func (i *Images) describe(
	ctx context.Context, rec images.Image, same []images.Image, parts []part, pick *part,
) (out image.InspectResponse, err error) {
	out = image.InspectResponse{ID: rec.Target.Digest.String(), Descriptor: &rec.Target, Config: &dockerspec.DockerOCIImageConfig{}}
	for _, s := range same {
		if s.UpdatedAt.After(out.Metadata.LastTagTime) {
			out.Metadata.LastTagTime = s.UpdatedAt
		}
	}
	out.RepoTags, out.RepoDigests = i.names(ctx, same, parts)
	if pick == nil {
		for _, p := range parts {
			out.Size += p.Size.Total
		}
		return out, nil
	}
	var cfg dockerspec.DockerOCIImage
	if err := json.Unmarshal(pick.img.RawConfig, &cfg); err != nil {
		return out, err
	}
	out.Author, out.Config, out.Size = cfg.Author, &cfg.Config, pick.Size.Total
	out.Architecture, out.Variant, out.Os, out.OsVersion = cfg.Architecture, cfg.Variant, cfg.OS, cfg.OSVersion // as it is written
	out.RootFS.Type = cfg.RootFS.Type
	if cfg.Created != nil {
		out.Created = cfg.Created.Format(time.RFC3339Nano)
	}
	for _, d := range cfg.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if n := len(cfg.History); n > 0 {
		out.Comment = cfg.History[n-1].Comment
	}
	return out, nil
}

// inspectFor is an image as a client's version of the API has it.
func inspectFor(r *http.Request, out image.InspectResponse) (any, error) {
	if !before(r, "1.52") {
		return out, nil
	}
	if before(r, "1.48") {
		out.Descriptor = nil
	}
	fields := map[string]any{
		"Parent": "", "Comment": out.Comment, "DockerVersion": "", "Author": out.Author,
		"GraphDriver": map[string]any{"Name": cache.Snapshotter, "Data": nil},
	}
	// What was there although it said nothing, of the configuration.
	cfg := map[string]any{"AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "", "Hostname": "",
		"Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false}
	if !before(r, "1.50") {
		cfg = map[string]any{}
	}
	for field, v := range map[string]any{
		"Cmd": out.Config.Cmd, "Entrypoint": out.Config.Entrypoint, "Env": out.Config.Env, "Labels": out.Config.Labels,
		"OnBuild": out.Config.OnBuild, "User": out.Config.User, "Volumes": out.Config.Volumes, "WorkingDir": out.Config.WorkingDir,
	} {
		cfg[field] = v
	}
	fields["Config"] = cfg
	if before(r, "1.45") {
		fields["Container"], fields["ContainerConfig"] = "", nil
	}
	if before(r, "1.44") {
		fields["VirtualSize"] = out.Size
		if out.Created == "" {
			fields["Created"] = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	return with(out, fields)
}

func (i *Images) history(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	rec, err := i.Store.Lookup(ctx, name)
	if err != nil {
		return err
	}
	all := i.platforms(ctx, rec)
	img := preferred(all)
	if p != nil {
		img = nil
		for _, m := range all {
			if platforms.Only(*p).Match(m.Platform) {
				img = m
				break
			}
		}
	}
	if img == nil {
		return fmt.Errorf("image %s has no such platform here: %w", name, errdefs.ErrNotFound)
	}
	sizes := i.Store.LayerSizes(ctx, img)
	out := []image.HistoryResponseItem{}
	next := 0
	for _, h := range img.Config.History {
		item := image.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && next < len(sizes) {
			item.Size = sizes[next]
			next++
		}
		out = append([]image.HistoryResponseItem{item}, out...)
	}
	if len(out) > 0 {
		out[0].ID = rec.Target.Digest.String()
		if out[0].Tags, err = i.tags(ctx, rec); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// tags are all names of an image, as Docker prints them; nil when it has none.
func (i *Images) tags(ctx context.Context, rec images.Image) (tags []string, err error) {
	same, err := i.Store.Client.ImageService().List(ctx, "target.digest=="+rec.Target.Digest.String())
	for _, s := range same {
		if named, err := reference.ParseNormalizedNamed(s.Name); err == nil && !cache.IsDangling(s.Name) {
			tags = append(tags, reference.FamiliarString(named))
		}
	}
	return tags, err
}
