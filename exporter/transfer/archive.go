package transfer

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/image"
	"github.com/gantry-build/gantry/internal/compressed"
)

// Load reads an archive of images, an OCI layout or what `docker save` writes, compressed or not,
// and records every image in it under the names that it has there. An image without a name is
// recorded as a dangling one. Nothing is recorded when the archive is not whole.
func (m *Mover) Load(ctx context.Context, r io.Reader) ([]images.Image, error) {
	ctx = cache.WithNamespace(ctx)
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer done(context.WithoutCancel(ctx))
	plain, err := compressed.Open(r)
	if err != nil {
		return nil, fmt.Errorf("reading the archive: %w", err)
	}
	defer plain.Close()
	cs := m.Store.Client.ContentStore()
	top, err := archive.ImportIndex(ctx, cs, plain)
	if err != nil {
		return nil, fmt.Errorf("this is no archive of images (an OCI layout, or what docker save writes): %w: %w",
			err, errdefs.ErrInvalidArgument)
	}
	found, err := named(ctx, cs, top)
	if err != nil {
		return nil, err
	}
	for _, img := range found {
		if err := m.tie(ctx, img.Target); err != nil {
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
			name = image.DanglingPrefix + "@" + d.Digest.String()
		}
		// The annotations belong to the archive, and the platform is read from the config.
		found = append(found, images.Image{Name: name, Target: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}})
	}
	return found, nil
}

// tie makes target keep everything below it, and checks that every manifest's blobs are there.
func (m *Mover) tie(ctx context.Context, target ocispec.Descriptor) error {
	cs := m.Store.Client.ContentStore()
	whole := func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		_, err := cs.Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) && images.IsManifestType(d.MediaType) && d.Digest != target.Digest {
			return nil, nil // a platform that the one who saved did not have
		}
		if err != nil {
			return nil, fmt.Errorf("the archive lacks %s (%s): %w: %w", d.Digest, d.MediaType, err, errdefs.ErrInvalidArgument)
		}
		return images.Children(ctx, cs, d)
	}
	return images.Walk(ctx, images.SetChildrenMappedLabels(cs, images.HandlerFunc(whole), images.ChildGCLabels), target)
}

func (m *Mover) record(ctx context.Context, found []images.Image) error {
	defer m.Store.LockNames()()
	is := m.Store.Client.ImageService()
	for _, img := range found {
		_, err := is.Create(ctx, img)
		if errdefs.IsAlreadyExists(err) {
			_, err = is.Update(ctx, img, "target")
		}
		if err != nil {
			return fmt.Errorf("recording %s: %w", img.Name, err)
		}
	}
	return nil
}

// Save writes the local images to w as an archive that is an OCI layout and what `docker load`
// reads, every platform of them that is here. Layers without bytes are compressed first.
func (m *Mover) Save(ctx context.Context, names []string, w io.Writer) error {
	ctx = cache.WithNamespace(ctx)
	ctx, done, err := m.Store.Client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done(context.WithoutCancel(ctx))
	var opts []archive.ExportOpt
	for _, name := range names {
		record, err := m.Store.Lookup(ctx, name)
		if err != nil {
			return err
		}
		if err := m.pin(ctx, record.Target); err != nil {
			return err
		}
		target, err := m.fill(ctx, record, record.Target)
		if err != nil {
			return fmt.Errorf("preparing %s: %w", name, err)
		}
		opts = append(opts, archive.WithManifest(target, record.Name))
	}
	cs := m.Store.Client.ContentStore()
	return archive.Export(ctx, cs, w, append(opts, archive.WithAllPlatforms(), archive.WithSkipMissing(cs))...)
}
