package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client/pkg/stringid"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

func (i *Images) tag(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	target, err := tagged(r.FormValue("repo"), r.FormValue("tag"))
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
	i.tell(ctx, "tag", rec.Target, target)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tagged is the full name that an image is to get: with a tag, and never with a digest.
func tagged(repo, tag string) (string, error) {
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", fault.Invalid("invalid reference %q: %v", repo, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return "", errdefs.ErrInvalidArgument.WithMessage("refusing to create a tag with a digest reference")
	}
	if reference.FamiliarName(named) == string(digest.Canonical) {
		return "", errdefs.ErrInvalidArgument.WithMessage("refusing to create an ambiguous tag using digest algorithm as name")
	}
	if tag == "" {
		return reference.TagNameOnly(named).String(), nil
	}
	with, err := reference.WithTag(reference.TrimNamed(named), tag)
	if err != nil {
		return "", fault.Invalid("invalid reference %s:%s: %v", repo, tag, err)
	}
	return with.String(), nil
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

// tell publishes what was done to an image, by the name or ID that it was done with, and its labels if it is still here.
func (i *Images) tell(ctx context.Context, action string, target ocispec.Descriptor, name string) {
	attributes := map[string]string{}
	all, _ := i.Store.Manifests(ctx, images.Image{Name: name, Target: target})
	if img := preferred(all); img != nil && action != "untag" {
		maps.Copy(attributes, img.Config.Config.Labels)
	}
	if named, err := reference.ParseNormalizedNamed(name); err == nil && !cache.IsDangling(name) {
		name = reference.FamiliarString(named)
	} else if cache.IsDangling(name) {
		name = target.Digest.String()
	}
	attributes["name"] = name
	i.Publish(runner.Event{Type: "image", Action: action, ID: target.Digest.String(), Attributes: attributes})
}

func (i *Images) remove(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	force := flag(r, "force")
	ps, err := decodePlatforms(r.URL.Query()["platforms"])
	if err != nil {
		return err
	}
	rec, err := i.Store.Lookup(ctx, name)
	if err != nil {
		return err
	}
	if len(ps) > 0 && !before(r, "1.50") {
		if !force {
			return errdefs.ErrInvalidArgument.WithMessage(
				"Content will be removed from all images referencing this variant. Use --force to force delete.")
		}
		return i.removePlatforms(ctx, w, rec, ps)
	}
	same, err := i.Store.Client.ImageService().List(ctx, "target.digest=="+rec.Target.Digest.String())
	if err != nil {
		return err
	}
	id := rec.Target.Digest
	gone, last := meant(name, rec, same), false
	if last = len(gone) == len(same); last {
		if err := i.conflict(name, rec, same, force); err != nil {
			return err
		}
	}
	used := len(users(i.Records(), id.String())) > 0
	keep := used && !byID(name, rec)
	out := []image.DeleteResponse{}
	for _, g := range gone {
		if err := i.Store.Unname(ctx, g, keep); err != nil {
			return err
		}
		if u := untagged(g); len(u) > 0 {
			out = append(out, u...)
			i.tell(ctx, "untag", rec.Target, g.Name)
		}
	}
	if last && !keep {
		out = append(out, image.DeleteResponse{Deleted: id.String()})
		i.tell(ctx, "delete", rec.Target, id.String())
	}
	return writeJSON(w, http.StatusOK, out)
}

// conflict is why an image's last names, or all of them by its ID, stay: containers that use it, unless it is forced,
// and several names, where only the ID was given.
func (i *Images) conflict(name string, rec images.Image, same []images.Image, force bool) error {
	id := stringid.TruncateID(rec.Target.Digest.String())
	using := users(i.Records(), rec.Target.Digest.String())
	refuse := func(what, how, why string, args ...any) error {
		return fault.Conflict("conflict: unable to delete %s (%s) - %s", what, how, fmt.Sprintf(why, args...))
	}
	if !byID(name, rec) {
		if len(using) == 0 || force {
			return nil
		}
		named, err := reference.ParseNormalizedNamed(rec.Name)
		if err != nil {
			return err
		}
		return refuse(reference.FamiliarString(named), "must be forced", "container %s is using its referenced image %s",
			stringid.TruncateID(using[0].ID), id)
	}
	if n := slices.IndexFunc(using, func(c runner.Record) bool { return c.State.Running }); n >= 0 {
		return refuse(id, "cannot be forced", "image is being used by running container %s", stringid.TruncateID(using[n].ID))
	}
	switch {
	case force:
		return nil
	case len(using) > 0:
		return refuse(id, "must be forced", "image is being used by stopped container %s", stringid.TruncateID(using[0].ID))
	case len(same) > 1:
		return refuse(id, "must be forced", "image is referenced in multiple repositories")
	}
	return nil
}

// removePlatforms takes platforms out of an image, and out of all others that have the same manifest: what is left of
// it stays under its names.
func (i *Images) removePlatforms(ctx context.Context, w http.ResponseWriter, rec images.Image, ps []ocispec.Platform) error {
	all := i.platforms(ctx, rec)
	out := []image.DeleteResponse{}
	for _, p := range ps {
		n := slices.IndexFunc(all, func(img *cache.Image) bool { return platforms.OnlyStrict(p).Match(img.Platform) })
		if n < 0 {
			return fault.NotFound("image %s has no platform %s here", rec.Name, platforms.Format(p))
		}
		d := all[n].Manifest.Digest
		for _, c := range i.Records() {
			if c.Manifest.Digest == d {
				return fault.Conflict("conflict: unable to delete platform %s (cannot be forced) - container %s is using it",
					platforms.Format(p), stringid.TruncateID(c.ID))
			}
		}
		if err := i.Store.Client.ContentStore().Delete(ctx, d); err != nil {
			return err
		}
		out = append(out, image.DeleteResponse{Deleted: d.String()})
	}
	if _, err := i.Store.DB.GarbageCollect(ctx); err != nil {
		return err
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
