package command

import (
	"errors"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/buildx/store/storeutil"
	"github.com/docker/buildx/util/imagetools"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"

	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/internal/state"
)

func fullName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	return reference.TagNameOnly(named).String(), nil
}

// path is where a list is kept.
func (m *manifests) path(list string) string {
	return filepath.Join(m.at.Root(), "manifests", digest.FromString(list).Encoded()+".json")
}

func (m *manifests) read(list string) (have []member, err error) {
	data, err := os.ReadFile(m.path(list))
	if err == nil {
		err = json.Unmarshal(data, &have)
	}
	return have, err
}

func (m *manifests) write(list string, have []member) error {
	data, err := json.Marshal(have)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.path(list)), 0o700); err != nil {
		return err
	}
	return state.Write(m.path(list), data, 0o600)
}

// tools reach the registries of names.
func (m *manifests) tools(names ...string) (*imagetools.Resolver, error) {
	group, err := m.at.registries(names)
	if err = errors.Join(err, m.at.trustRegistries()); err != nil {
		return nil, err
	}
	opt, err := storeutil.GetImageConfig(m.docker, group)
	if err != nil {
		return nil, err
	}
	return imagetools.New(opt), nil
}

// source is where a manifest is read: in its registry, or a local image, of which dir becomes a layout.
func (m *manifests) source(ctx context.Context, name, dir string) (string, error) {
	return m.at.layoutOf(ctx, m.docker.Client(), name, dir)
}

// fetch reads one manifest, which must not be a list.
func (m *manifests) fetch(ctx context.Context, name string) (member, error) {
	all, err := m.fetchAll(ctx, name, false)
	if err != nil {
		return member{}, err
	}
	if images.IsIndexType(all[0].Descriptor.MediaType) {
		return member{}, fmt.Errorf("%s is a manifest list; name the manifests that it has, by their digests", name)
	}
	return all[0], nil
}

// fetchAll reads what a name stands for: a manifest, a list, or with deep each manifest of a list.
func (m *manifests) fetchAll(ctx context.Context, name string, deep bool) ([]member, error) {
	full, err := fullName(name)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "gantry-manifest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	from, err := m.source(ctx, name, filepath.Join(dir, "layout"))
	if err != nil {
		return nil, err
	}
	r, err := m.tools(full)
	if err != nil {
		return nil, err
	}
	raw, desc, err := r.Get(ctx, from)
	if err != nil {
		return nil, trust.ExplainText(fmt.Errorf("no such manifest: %s: %w", name, err))
	}
	loc, err := imagetools.ParseLocation(from)
	if err != nil {
		return nil, err
	}
	if !images.IsIndexType(desc.MediaType) {
		one, err := m.member(ctx, r, loc, full, desc, raw)
		return []member{one}, err
	}
	if !deep {
		return []member{{Ref: full, Descriptor: desc, Raw: raw}}, nil
	}
	var idx ocispec.Index
	if err := json.Unmarshal(raw, &idx); err != nil {
		return nil, err
	}
	var all []member
	for _, d := range idx.Manifests {
		raw, err := r.GetDescriptor(ctx, loc, d)
		if err != nil {
			return nil, trust.ExplainText(err)
		}
		one, err := m.member(ctx, r, loc, full+"@"+d.Digest.String(), d, raw)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// member describes a manifest, with the platform that its config has.
func (m *manifests) member(
	ctx context.Context, r *imagetools.Resolver, loc *imagetools.Location, ref string, desc ocispec.Descriptor, raw []byte,
) (member, error) {
	var manifest ocispec.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return member{}, fmt.Errorf("manifest %s: %w", ref, err)
	}
	out := member{Ref: ref, Raw: raw, Descriptor: ocispec.Descriptor{
		MediaType: desc.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)), Platform: desc.Platform,
	}}
	if images.IsDockerType(desc.MediaType) {
		out.SchemaV2Manifest = &manifest
	} else {
		out.OCIManifest = &manifest
	}
	if out.Descriptor.Platform != nil {
		return out, nil
	}
	data, err := r.GetDescriptor(ctx, loc, manifest.Config)
	if err != nil {
		return out, trust.ExplainText(err)
	}
	var cfg ocispec.Image
	if err := json.Unmarshal(data, &cfg); err != nil {
		return out, fmt.Errorf("config of %s: %w", ref, err)
	}
	p := platforms.Normalize(cfg.Platform)
	out.Descriptor.Platform = &p
	return out, nil
}

// index makes a list of manifests: Docker's when they all are, and else an OCI index.
func index(have []member) ([]byte, ocispec.Descriptor, error) {
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2ManifestList}
	for _, o := range have {
		if !images.IsDockerType(o.Descriptor.MediaType) {
			idx.MediaType = ocispec.MediaTypeImageIndex
		}
		idx.Manifests = append(idx.Manifests, o.Descriptor)
	}
	data, err := json.MarshalIndent(idx, "", "   ")
	return data, ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, err
}

// upload puts what is not there into the list's repository, and the list under its name.
func (m *manifests) upload(ctx context.Context, list string, have []member) (ocispec.Descriptor, error) {
	data, desc, err := index(have)
	if err != nil {
		return desc, err
	}
	names := []string{list}
	for _, o := range have {
		names = append(names, o.Ref)
	}
	r, err := m.tools(names...)
	if err != nil {
		return desc, err
	}
	to, err := imagetools.ParseLocation(list)
	if err != nil {
		return desc, err
	}
	dir, err := os.MkdirTemp("", "gantry-manifest-")
	if err != nil {
		return desc, err
	}
	defer os.RemoveAll(dir)
	for i, o := range have {
		from, err := m.source(ctx, o.Ref, filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return desc, err
		}
		loc, err := imagetools.ParseLocation(from)
		if err != nil {
			return desc, err
		}
		target, err := to.WithDigest(o.Descriptor.Digest)
		if err != nil {
			return desc, err
		}
		src := &imagetools.Source{Ref: loc, Desc: o.Descriptor}
		src.Desc.Platform = nil
		if err := r.Copy(ctx, src, target); err != nil {
			return desc, fmt.Errorf("pushing %s to %s: %w", o.Ref, strings.TrimPrefix(to.String(), "docker.io/library/"), err)
		}
	}
	return desc, r.Push(ctx, to, desc, data)
}
