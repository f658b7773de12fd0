package api

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
)

// imageFilter says which names of images are meant. All that it holds must be so.
type imageFilter struct {
	dangling      *bool
	until         []time.Time // named before
	before, since []time.Time // made before, and after
	references    []string    // patterns, of which one must match
	labels        filters
}

// imageFilterOf checks the terms of a filter.
func (i *Images) imageFilterOf(ctx context.Context, f filters) (p imageFilter, err error) {
	if p.dangling, err = f.boolean("dangling"); err != nil {
		return p, err
	}
	p.references, p.labels = f.values("reference"), f
	for _, v := range f.values("until") {
		t, err := moment(v)
		if err != nil {
			return p, err
		}
		p.until = append(p.until, t)
	}
	for term, at := range map[string]*[]time.Time{"before": &p.before, "since": &p.since} {
		for _, v := range f.values(term) {
			rec, err := i.Store.Lookup(ctx, v)
			if err != nil {
				return p, err
			}
			if made := created(i.platforms(ctx, rec)); !made.IsZero() {
				*at = append(*at, made)
			}
		}
	}
	return p, nil
}

// moment reads what "until" and the like can be.
func moment(v string) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return time.Now().Add(-d), nil
	}
	sec, frac, _ := strings.Cut(v, ".")
	if n, err := strconv.ParseInt(sec, 10, 64); err == nil {
		ns, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		if err == nil {
			return time.Unix(n, ns), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fault.Invalid("invalid filter 'until=%s': want a duration, seconds since 1970 or RFC 3339", v)
}

// created is when an image was made, the zero time when it does not say.
func created(all []*cache.Image) (t time.Time) {
	if img := preferred(all); img != nil && img.Config.Created != nil {
		t = *img.Config.Created
	}
	return t
}

// takes tells whether a name is meant; all are the platforms of its image.
func (p imageFilter) takes(rec images.Image, all func() []*cache.Image) bool {
	if p.dangling != nil && *p.dangling != cache.IsDangling(rec.Name) || !p.named(rec.Name) {
		return false
	}
	if slices.ContainsFunc(p.until, func(t time.Time) bool { return !rec.CreatedAt.Before(t) }) {
		return false
	}
	if len(p.before)+len(p.since) > 0 {
		made := created(all())
		if made.IsZero() || slices.ContainsFunc(p.before, func(t time.Time) bool { return !made.Before(t) }) ||
			slices.ContainsFunc(p.since, func(t time.Time) bool { return !made.After(t) }) {
			return false
		}
	}
	if !p.labels.any("label") && !p.labels.any("label!") {
		return true
	}
	return slices.ContainsFunc(all(), func(img *cache.Image) bool { return p.labelled(img.Config.Config.Labels) })
}

// labelled is what Docker's terms label and label! mean; a value that ends in ! before its = is the other way around.
func (p imageFilter) labelled(have map[string]string) bool {
	for _, term := range []string{"label", "label!"} {
		for _, want := range p.labels.values(term) {
			k, v, exact := strings.Cut(want, "=")
			k, not := strings.CutSuffix(k, "!")
			not = not != (term == "label!")
			got, ok := have[k]
			if (ok && (!exact || got == v)) == not {
				return false
			}
		}
	}
	return true
}

// named matches the patterns with a name as Docker prints it and in full, each with and without its tag.
func (p imageFilter) named(name string) bool {
	if len(p.references) == 0 {
		return true
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil || cache.IsDangling(name) {
		return false
	}
	forms := []string{reference.FamiliarString(ref), reference.FamiliarName(ref), reference.TagNameOnly(ref).String(), ref.Name()}
	return slices.ContainsFunc(p.references, func(pattern string) bool {
		return slices.ContainsFunc(forms, func(form string) bool {
			ok, _ := path.Match(pattern, form)
			return ok
		})
	})
}
