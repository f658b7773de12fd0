package api

import (
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
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
)

func parsePlatform(v string) (ocispec.Platform, error) {
	if strings.HasPrefix(v, "{") {
		var p ocispec.Platform
		err := json.Unmarshal([]byte(v), &p)
		return platforms.Normalize(p), err
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
			}
		}
	}
	if img == nil {
		return fmt.Errorf("image %s has no such platform here: %w", name, errdefs.ErrNotFound)
	}
	same, err := i.Store.Client.ImageService().List(ctx, "target.digest=="+rec.Target.Digest.String())
	if err != nil {
		return err
	}
	out, err := i.describe(rec, same, img)
	if err != nil {
		return err
	}
	for _, m := range all {
		s := i.manifest(ctx, m)
		if m == img {
			out.Size = s.Size.Total
		}
		if flag(r, "manifests") {
			out.Manifests = append(out.Manifests, s)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (i *Images) describe(rec images.Image, same []images.Image, img *cache.Image) (image.InspectResponse, error) {
	var cfg dockerspec.DockerOCIImage
	if err := json.Unmarshal(img.RawConfig, &cfg); err != nil {
		return image.InspectResponse{}, err
	}
	tags, digests := names(same)
	out := image.InspectResponse{
		ID: rec.Target.Digest.String(), RepoTags: orEmpty(tags), RepoDigests: orEmpty(digests),
		Author: cfg.Author, Config: &cfg.Config,
		Architecture: img.Platform.Architecture, Variant: img.Platform.Variant, Os: img.Platform.OS, OsVersion: img.Platform.OSVersion,
		RootFS:      image.RootFS{Type: cfg.RootFS.Type},
		Metadata:    image.Metadata{LastTagTime: rec.UpdatedAt},
		Descriptor:  &rec.Target,
		GraphDriver: &storage.DriverData{Name: cache.Snapshotter, Data: map[string]string{}},
	}
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

func (i *Images) history(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	p, err := platformOf(r)
	if err != nil {
		return err
	}
	img, err := i.Store.Open(ctx, name, p)
	if err != nil {
		return err
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
		out[0].ID = img.Target.Digest.String()
		if tag, err := reference.ParseNormalizedNamed(img.Name); err == nil && !cache.IsDangling(img.Name) {
			out[0].Tags = []string{reference.FamiliarString(tag)}
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (i *Images) tag(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	target, err := fullName(r.FormValue("repo"), r.FormValue("tag"))
	if err != nil {
		return err
	}
	rec, err := i.Store.Lookup(ctx, name)
	if err != nil {
		return err
	}
	if err := i.Store.Name(ctx, target, rec.Target); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// fullName joins a repository and a tag or digest, as the API gives them, to an image's full name.
func fullName(repo, tag string) (string, error) {
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", fmt.Errorf("invalid reference %q: %w: %w", repo, err, errdefs.ErrInvalidArgument)
	}
	switch {
	case strings.Contains(tag, ":"):
		named, err = reference.ParseNormalizedNamed(reference.TrimNamed(named).String() + "@" + tag)
	case tag != "":
		named, err = reference.WithTag(reference.TrimNamed(named), tag)
	}
	if err != nil {
		return "", fmt.Errorf("invalid reference %s:%s: %w: %w", repo, tag, err, errdefs.ErrInvalidArgument)
	}
	return reference.TagNameOnly(named).String(), nil
}

func (i *Images) remove(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	force := flag(r, "force")
	rec, err := i.Store.Lookup(ctx, name)
	if err != nil {
		return err
	}
	is := i.Store.Client.ImageService()
	same, err := is.List(ctx, "target.digest=="+rec.Target.Digest.String())
	if err != nil {
		return err
	}
	id := rec.Target.Digest
	gone := meant(name, rec, same)
	if byID(name, rec) && len(same) > 1 && !force {
		return fmt.Errorf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %w",
			id.Encoded()[:12], errdefs.ErrFailedPrecondition)
	}
	users := i.Users(id.String())
	if len(users) > 0 && len(gone) == len(same) && !force {
		return fmt.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image "+
			"%s: %w", name, users[0][:12], id.Encoded()[:12], errdefs.ErrFailedPrecondition)
	}
	out := []image.DeleteResponse{}
	for _, g := range gone {
		if err := i.Store.Unname(ctx, g, len(users) > 0 && !byID(name, rec)); err != nil {
			return err
		}
		out = append(out, untagged(g)...)
	}
	if len(gone) == len(same) && (len(users) == 0 || byID(name, rec)) {
		out = append(out, image.DeleteResponse{Deleted: id.String()})
	}
	return writeJSON(w, http.StatusOK, out)
}

// meant are the records that go with a name for rec: all of its image's for an ID, those of its repository for a
// digest, and else rec.
func meant(name string, rec images.Image, same []images.Image) (gone []images.Image) {
	if byID(name, rec) {
		return same
	}
	named, err := reference.ParseDockerRef(name)
	if _, ok := named.(reference.Digested); err != nil || !ok {
		return []images.Image{rec}
	}
	for _, s := range same {
		if other, err := reference.ParseNormalizedNamed(s.Name); err == nil && other.Name() == named.Name() {
			gone = append(gone, s)
		}
	}
	return gone
}

// byID tells whether rec was found by its ID, and not by its name.
func byID(name string, rec images.Image) bool {
	if full, err := fullName(name, ""); err == nil && full == rec.Name || strings.Contains(name, "@") {
		return false
	}
	return strings.Trim(strings.TrimPrefix(name, "sha256:"), "0123456789abcdef") == ""
}
