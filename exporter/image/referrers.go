package image

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/push"
	"github.com/moby/buildkit/util/resolver"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/attest"
)

// layered says in the SBOMs of a result which layer each file is from.
func (e *instance) layered(ctx context.Context, src *exporter.Source, g session.Group) (*exporter.Source, error) {
	if len(src.Attestations) == 0 {
		return src, nil
	}
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	before := src.Attestations
	src = src.Clone()
	src.Attestations = maps.Clone(before) // Clone shares the map
	for _, p := range ps.Platforms {
		atts := before[p.ID]
		found, _ := src.FindRef(p.ID)
		r, ok := found.(*ref)
		if len(atts) == 0 || !ok || r.remote == nil {
			continue // FROM scratch, and nothing in it
		}
		if src.Attestations[p.ID], err = attest.Layered(ctx, g, atts, r.remote.Provider, r.remote.Descriptors); err != nil {
			return nil, fmt.Errorf("attestations of %s: %w", p.ID, err)
		}
	}
	return src, nil
}

// apart takes the attestations out of a result when they are to refer to it; else BuildKit's exporter
// puts them into the index.
func (e *instance) apart(src *exporter.Source) (*exporter.Source, map[string][]exporter.Attestation) {
	if !e.referrers || len(src.Attestations) == 0 {
		return src, nil
	}
	atts := src.Attestations
	src = src.Clone()
	src.Attestations = nil
	return src, atts
}

// refer stores the attestations beside the image, and returns a finalize that pushes them after it.
func (e *instance) refer(
	ctx context.Context, top ocispec.Descriptor, names string, src *exporter.Source, atts map[string][]exporter.Attestation, sid string,
	finalize exporter.FinalizeFunc,
) (exporter.FinalizeFunc, error) {
	done := progress.OneOff(ctx, "exporting attestations that refer to the image")
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, done(err)
	}
	manifests, err := e.manifestsOf(ctx, top)
	if err != nil {
		return nil, done(err)
	}
	if len(manifests) != len(ps.Platforms) {
		return nil, done(fmt.Errorf("%s has %d manifests for %d platforms", top.Digest, len(manifests), len(ps.Platforms)))
	}
	written := make([][]ocispec.Descriptor, len(manifests))
	for i, p := range ps.Platforms { // BuildKit's writer keeps their order
		subject := manifests[i]
		subject.Platform = &p.Platform
		if written[i], err = attest.Write(ctx, e.o.Content, session.NewGroup(sid), atts[p.ID], split(names), subject); err != nil {
			return nil, done(fmt.Errorf("attestations of %s: %w", p.ID, err))
		}
	}
	done(nil)
	if !e.push {
		return finalize, nil
	}
	return func(ctx context.Context) error {
		if finalize != nil {
			if err := finalize(ctx); err != nil {
				return err
			}
		}
		for _, name := range split(names) {
			for i, referrers := range written {
				if err := e.pushReferrers(ctx, sid, name, manifests[i], referrers); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil
}

func split(names string) (all []string) {
	for n := range strings.SplitSeq(names, ",") {
		if n != "" {
			all = append(all, n)
		}
	}
	return all
}

// manifestsOf are those of an index, in its order, or top itself.
func (e *instance) manifestsOf(ctx context.Context, top ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !images.IsIndexType(top.MediaType) {
		return []ocispec.Descriptor{top}, nil
	}
	idx, err := blob.Index(ctx, e.o.Content, top)
	return idx.Manifests, err
}

func (e *instance) pushReferrers(ctx context.Context, sid, name string, subject ocispec.Descriptor, referrers []ocispec.Descriptor) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	repository := reference.TrimNamed(named).String()
	for _, d := range referrers {
		err := push.Push(ctx, e.o.Sessions, sid, e.o.Content, e.o.Content, d.Digest, repository, false, e.o.Hosts, true, nil)
		if err != nil {
			return fmt.Errorf("pushing the attestations of %s: %w", name, err)
		}
	}
	r := resolver.DefaultPool.GetResolver(e.o.Hosts, repository, resolver.ScopeType{Push: true}, e.o.Sessions, session.NewGroup(sid))
	return attest.List(ctx, r, repository, subject.Digest, referrers)
}
