package transfer

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/internal/tarball"
)

// Load reads an archive of images, an OCI layout or what `docker save` writes, compressed or not,
// and records every image in it under the names that it has there. An image without a name is
// recorded as a dangling one. Of platforms, when there are some, each image must have every one, and is loaded for
// these only; it is the same image all the same. Nothing is recorded when the archive is not whole.
func (m *Mover) Load(ctx context.Context, r io.Reader, only []ocispec.Platform) ([]images.Image, error) {
	ctx = cache.WithNamespace(ctx)
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = done(context.WithoutCancel(ctx))
		if len(only) > 0 { // the rest of the archive is not to be taken for loaded
			_, _ = m.Store.DB.GarbageCollect(context.WithoutCancel(ctx))
		}
	}()
	plain, err := compressed.Open(r)
	if err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	defer plain.Close()
	fits := tarball.Fits(plain, m.Store.Root())
	defer fits.Close()
	cs := m.Store.Client.ContentStore()
	top, err := archive.ImportIndex(ctx, cs, fits)
	if err != nil {
		return nil, fmt.Errorf("this is no archive of images (an OCI layout, or what docker save writes): %w: %w",
			err, errdefs.ErrInvalidArgument)
	}
	found, err := named(ctx, cs, top)
	if err != nil {
		return nil, err
	}
	for _, img := range found {
		for _, p := range only {
			if _, err := m.only(ctx, img, p); err != nil {
				return nil, fmt.Errorf("the archive's %w", err)
			}
		}
		if err := m.tie(ctx, img.Target, anyOf(only)); err != nil {
			return nil, err
		}
	}
	return found, m.record(ctx, found)
}

// named lists the images of an archive's index.
func named(ctx context.Context, cs content.Provider, top ocispec.Descriptor) (found []images.Image, err error) {
	idx, err := blob.Index(ctx, cs, top)
	if err != nil {
		return nil, fmt.Errorf("the archive's %w", err)
	}
	for _, d := range idx.Manifests {
		name := d.Annotations[images.AnnotationImageName]
		if ref := d.Annotations[ocispec.AnnotationRefName]; name == "" && strings.ContainsAny(ref, ":/") {
			name = ref // and not only a tag, as it often is
		}
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			name = reference.TagNameOnly(ref).String()
		} else {
			name = cache.DanglingPrefix + "@" + d.Digest.String()
		}
		// The annotations belong to the archive, and the platform is read from the config.
		found = append(found, images.Image{Name: name, Target: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}})
	}
	return found, nil
}

// anyOf matches each of ps, or all platforms when there are none.
func anyOf(ps []ocispec.Platform) platforms.MatchComparer {
	if len(ps) == 0 {
		return platforms.All
	}
	return platforms.Ordered(ps...)
}

// tie makes target keep everything below it for the platforms, and checks that every manifest's blobs are there.
func (m *Mover) tie(ctx context.Context, target ocispec.Descriptor, only platforms.Matcher) error {
	cs := m.Store.Client.ContentStore()
	whole := func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		_, err := cs.Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) && images.IsManifestType(d.MediaType) && d.Digest != target.Digest {
			return nil, nil // a platform that the one who saved did not have
		}
		if err != nil {
			return nil, fmt.Errorf("the archive lacks %s (%s): %w: %w", d.Digest, d.MediaType, err, errdefs.ErrInvalidArgument)
		}
		children, err := images.Children(ctx, cs, d)
		return slices.DeleteFunc(children, func(c ocispec.Descriptor) bool {
			return images.IsIndexType(d.MediaType) && c.Platform != nil && !only.Match(*c.Platform)
		}), err
	}
	return images.Walk(ctx, images.SetChildrenMappedLabels(cs, images.HandlerFunc(whole), images.ChildGCLabels), target)
}

func (m *Mover) record(ctx context.Context, found []images.Image) error {
	for _, img := range found {
		if err := m.Store.Name(ctx, img.Name, img.Target); err != nil {
			return err
		}
	}
	return nil
}

// Save writes the local images to w as an archive that is an OCI layout and what `docker load` and others read,
// every platform of them that is here, or only those given: each image must have all of these. Of an image with
// several, those who read one find this machine's. Layers without bytes are compressed first. What was named by its
// ID has no name in the archive.
func (m *Mover) Save(ctx context.Context, names []string, only []ocispec.Platform, w io.Writer) error {
	ctx = cache.WithNamespace(ctx)
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done(context.WithoutCancel(ctx))
	var opts []archive.ExportOpt
	var here, missing []ocispec.Platform
	for _, name := range names {
		record, err := m.Store.Lookup(ctx, name)
		if err != nil {
			return err
		}
		if err := m.pin(ctx, record.Target); err != nil {
			return err
		}
		target, err := m.saved(ctx, record, only)
		if err != nil {
			return fmt.Errorf("preparing %s: %w", name, err)
		}
		has, lacks, err := m.platforms(ctx, record)
		if err != nil {
			return err
		}
		here, missing = append(here, has...), append(missing, lacks...)
		if ref, err := reference.ParseDockerRef(name); err == nil && ref.String() == record.Name {
			opts = append(opts, archive.WithManifest(target, record.Name))
		} else {
			opts = append(opts, archive.WithManifest(target))
		}
	}
	cs := m.Store.Client.ContentStore()
	opts = append(opts, archive.WithSkipMissing(cs))
	switch {
	case len(only) > 0:
		opts = append(opts, archive.WithPlatform(anyOf(only)))
	case disjoint(here, missing):
		host := platforms.Default()
		slices.SortStableFunc(here, func(a, b ocispec.Platform) int {
			switch {
			case host.Less(a, b):
				return -1
			case host.Less(b, a):
				return 1
			}
			return 0
		})
		opts = append(opts, archive.WithPlatform(anyOf(here)), archive.WithAllPlatforms())
	default: // the library chooses by platform only, and one image has what the other lacks
		opts = append(opts, archive.WithAllPlatforms())
	}
	return archive.Export(ctx, cs, w, opts...)
}

// saved is what an archive has of an image: one platform's manifest when it is for one, and else the whole index.
func (m *Mover) saved(ctx context.Context, record images.Image, only []ocispec.Platform) (target ocispec.Descriptor, err error) {
	target = record.Target
	for _, p := range only {
		if target, err = m.only(ctx, record, p); err != nil {
			return target, err
		}
	}
	if len(only) > 1 {
		target = record.Target
	}
	return m.fill(ctx, target)
}

// Platforms are those of a local image that are here.
func (m *Mover) Platforms(ctx context.Context, name string) ([]ocispec.Platform, error) {
	ctx = cache.WithNamespace(ctx)
	record, err := m.Store.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	all, err := m.Store.Manifests(ctx, record)
	var here []ocispec.Platform
	for _, img := range all {
		here = append(here, img.Platform)
	}
	return here, err
}

// platforms are those of an image that are here, and those that its index names and are not.
func (m *Mover) platforms(ctx context.Context, record images.Image) (here, missing []ocispec.Platform, err error) {
	all, err := m.Store.Manifests(ctx, record)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("none of its platforms is here; pull it for one: %w", errdefs.ErrNotFound)
	}
	if err != nil || !images.IsIndexType(record.Target.MediaType) {
		return nil, nil, err
	}
	found := map[digest.Digest]bool{}
	for _, img := range all {
		found[img.Manifest.Digest] = true
		here = append(here, img.Platform)
	}
	idx, err := blob.Index(ctx, m.content(), record.Target)
	for _, d := range idx.Manifests {
		if !found[d.Digest] && d.Platform != nil {
			missing = append(missing, platforms.Normalize(*d.Platform))
		}
	}
	return here, missing, err
}

func disjoint(a, b []ocispec.Platform) bool {
	return !slices.ContainsFunc(a, func(p ocispec.Platform) bool {
		return slices.ContainsFunc(b, platforms.OnlyStrict(p).Match)
	})
}
