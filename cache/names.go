package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/internal/fault"
)

const (
	// DanglingPrefix begins the names of images that have none, as they were built without, or another image
	// got it: prefix@digest.
	DanglingPrefix = "gantry-dangling"
	// LabelPushed on an index or manifest blob names the one that stands for it in registries and archives: the
	// same, with layers that have bytes. It keeps that blob.
	LabelPushed = "containerd.io/gc.ref.content.pushed"
	// LabelRegistry on an image's record is the digest that the registry has under its name: what was last
	// pulled from there or pushed to it.
	LabelRegistry = "gantry.build/registry"
)

// IsDangling tells whether an image's name stands for having none.
func IsDangling(name string) bool { return strings.HasPrefix(name, DanglingPrefix+"@") }

// Lookup finds a local image as Docker does: by name (short names mean docker.io, no tag means latest), by
// name@digest, by ID or by the beginning of an ID. The digest is the image's own, which never changes, or the
// one that it got in a registry. errdefs.ErrNotFound when there is none.
func (s *Store) Lookup(ctx context.Context, ref string) (images.Image, error) {
	ctx = WithNamespace(ctx)
	if named, err := reference.ParseDockerRef(ref); err == nil {
		if img, err := s.Client.ImageService().Get(ctx, named.String()); err == nil || !errdefs.IsNotFound(err) {
			return img, err
		}
		if d, ok := named.(reference.Digested); ok {
			found, err := s.withDigest(ctx, d.Digest().String())
			if err != nil {
				return images.Image{}, err
			}
			for _, img := range found {
				if other, err := reference.ParseNormalizedNamed(img.Name); err == nil && other.Name() == named.Name() {
					return img, nil
				}
			}
		}
	}
	if id := strings.TrimPrefix(ref, "sha256:"); len(id) <= 64 && len(id) >= 4 && strings.Trim(id, "0123456789abcdef") == "" {
		found, err := s.withDigest(ctx, "sha256:"+id)
		if err != nil {
			return images.Image{}, err
		}
		for _, f := range found {
			if f.Target.Digest != found[0].Target.Digest {
				return images.Image{}, fmt.Errorf("image ID %s is ambiguous: %w", ref, errdefs.ErrInvalidArgument)
			}
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return images.Image{}, fault.NotFound("No such image: %s", familiar(ref))
}

// withDigest lists the records of images whose digest, or else whose digest in a registry, begins with prefix.
// One with a name is before one without.
func (s *Store) withDigest(ctx context.Context, prefix string) (found []images.Image, err error) {
	is := s.Client.ImageService()
	found, err = is.List(ctx, "target.digest~=^"+prefix)
	if err == nil && len(found) == 0 {
		err = s.Client.ContentStore().Walk(ctx, func(i content.Info) error {
			same, err := is.List(ctx, "target.digest=="+i.Digest.String())
			found = append(found, same...)
			return err
		}, fmt.Sprintf("labels.%q~=^%s", LabelPushed, prefix))
	}
	slices.SortStableFunc(found, func(a, b images.Image) int {
		return strings.Compare(fmt.Sprint(IsDangling(a.Name)), fmt.Sprint(IsDangling(b.Name)))
	})
	return found, err
}

// Pushed is the digest by which registries and archives have the index or manifest d; d when it is the same,
// or was never pushed.
func (s *Store) Pushed(ctx context.Context, d digest.Digest) digest.Digest {
	cs := s.Client.ContentStore()
	info, err := cs.Info(WithNamespace(ctx), d)
	if err != nil || info.Labels[LabelPushed] == "" {
		return d
	}
	return digest.Digest(info.Labels[LabelPushed])
}

// SetPushed notes that the index or manifest d is called as in registries and archives.
func (s *Store) SetPushed(ctx context.Context, d, as digest.Digest) error {
	return blob.Label(WithNamespace(ctx), s.Client.ContentStore(), d, map[string]string{LabelPushed: as.String()})
}

// Name points the image name to target. The image that had the name is kept, without one when it was its last,
// until someone removes it: it may be in an ID file, or be a container's. A name whose image is called target in
// registries stays where it is.
func (s *Store) Name(ctx context.Context, name string, target ocispec.Descriptor) error {
	return s.Rename(ctx, name, func(images.Image) (ocispec.Descriptor, error) { return target, nil })
}

// Rename is Name of what to makes of the record that the name has now (the zero one: none). No other name is
// changed meanwhile.
func (s *Store) Rename(ctx context.Context, name string, to func(old images.Image) (ocispec.Descriptor, error)) error {
	ctx = WithNamespace(ctx)
	s.names.Lock()
	defer s.names.Unlock()
	is := s.Client.ImageService()
	old, err := is.Get(ctx, name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	target, err := to(old)
	if err != nil {
		return err
	}
	switch was := old.Target.Digest; {
	case old.Name == "":
		_, err = is.Create(ctx, images.Image{Name: name, Target: target})
	case was == target.Digest, s.Pushed(ctx, was) == target.Digest:
		return nil
	default:
		if err := s.keep(ctx, old); err != nil {
			return err
		}
		_, err = is.Update(ctx, images.Image{Name: name, Target: target})
	}
	if err != nil {
		return fmt.Errorf("naming an image %s: %w", name, err)
	}
	if IsDangling(name) {
		return nil
	}
	err = is.Delete(ctx, Dangling(target.Digest))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Unname deletes an image's name as long as it points to what the record says: one that has moved meanwhile is
// another image's, and as good as deleted. With keep, the image stays without a name when it was its last.
func (s *Store) Unname(ctx context.Context, rec images.Image, keep bool) error {
	ctx = WithNamespace(ctx)
	s.names.Lock()
	defer s.names.Unlock()
	if keep {
		if err := s.keep(ctx, rec); err != nil {
			return err
		}
	}
	err := s.Client.ImageService().Delete(ctx, rec.Name, images.SynchronousDelete(), images.DeleteTarget(&rec.Target))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// InRegistry notes that the registry has d under the image name. No such name is no error: it may be gone by now.
func (s *Store) InRegistry(ctx context.Context, name string, d digest.Digest) error {
	img := images.Image{Name: name, Labels: map[string]string{LabelRegistry: d.String()}}
	_, err := s.Client.ImageService().Update(WithNamespace(ctx), img, "labels."+LabelRegistry)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Pulled is told that a pull has changed the record old (the zero one: there was none) to fetched. An image that
// was once pushed as what came back stays what it is.
func (s *Store) Pulled(ctx context.Context, old, fetched images.Image) error {
	ctx = WithNamespace(ctx)
	s.names.Lock()
	defer s.names.Unlock()
	now := images.Image{
		Name: fetched.Name, Target: fetched.Target, Labels: map[string]string{LabelRegistry: fetched.Target.Digest.String()},
	}
	switch was := old.Target.Digest; {
	case old.Name == "", was == fetched.Target.Digest:
	case s.Pushed(ctx, was) == fetched.Target.Digest:
		now.Target = old.Target
	default:
		if err := s.keep(ctx, old); err != nil {
			return err
		}
	}
	_, err := s.Client.ImageService().Update(ctx, now, "target", "labels")
	return err
}

// keep gives the image of rec a dangling name when rec's is its only one.
func (s *Store) keep(ctx context.Context, rec images.Image) error {
	is := s.Client.ImageService()
	same, err := is.List(ctx, "target.digest=="+rec.Target.Digest.String())
	if err != nil {
		return err
	}
	if slices.ContainsFunc(same, func(i images.Image) bool { return i.Name != rec.Name }) || IsDangling(rec.Name) {
		return nil
	}
	_, err = is.Create(ctx, images.Image{Name: Dangling(rec.Target.Digest), Target: rec.Target, CreatedAt: rec.CreatedAt})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Dangling names an image that has no name.
func Dangling(d digest.Digest) string { return DanglingPrefix + "@" + d.String() }

// familiar is ref as Docker prints it: with its tag, without docker.io/library.
func familiar(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(named)
}
