package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/gantry-build/gantry/cache"
)

// load answers POST /images/load: the images of an archive.
func (i *Images) load(w http.ResponseWriter, r *http.Request) error {
	only, err := platformsOf(r)
	if err != nil {
		return err
	}
	found, err := i.Mover.Load(r.Context(), r.Body, only)
	if err != nil {
		return err
	}
	out := newProgress(w)
	for _, img := range found {
		i.tell(r.Context(), "load", img.Target, img.Name)
		if cache.IsDangling(img.Name) {
			out.send(jsonstream.Message{Stream: "Loaded image ID: " + img.Target.Digest.String() + "\n"})
			continue
		}
		named, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil {
			return out.fail(err)
		}
		out.send(jsonstream.Message{Stream: "Loaded image: " + reference.FamiliarString(named) + "\n"})
	}
	return nil
}

// save answers GET /images/get?names=... and GET /images/{name}/get: an archive of images.
func (i *Images) save(w http.ResponseWriter, r *http.Request, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("no image is named: %w", errdefs.ErrInvalidArgument)
	}
	only, err := platformsOf(r)
	if err != nil {
		return err
	}
	if names, err = i.eachTag(r.Context(), names); err != nil {
		return err
	}
	for _, n := range names { // while the status can still say that something is missing
		if err := i.Mover.Has(r.Context(), n, only); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := i.Mover.Save(r.Context(), names, only, w); err != nil {
		return err
	}
	for _, n := range names {
		if rec, err := i.Store.Lookup(r.Context(), n); err == nil {
			i.tell(r.Context(), "save", rec.Target, rec.Name)
		}
	}
	return nil
}

// eachTag puts all names of a repository where only it is named.
func (i *Images) eachTag(ctx context.Context, names []string) (all []string, err error) {
	for _, n := range names {
		of := []string{n}
		if rec, err := i.Store.Lookup(ctx, n); err != nil || !byID(n, rec) {
			named, err := reference.ParseNormalizedNamed(n)
			if err == nil && reference.IsNameOnly(named) {
				if of, err = i.tagsOf(ctx, named); err != nil {
					return nil, err
				}
			}
		}
		if len(of) == 0 {
			of = []string{n} // and the error is that there is none
		}
		all = append(all, of...)
	}
	return all, nil
}

func (i *Images) saveOne(w http.ResponseWriter, r *http.Request, name string) error {
	return i.save(w, r, []string{name})
}
