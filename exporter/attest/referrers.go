package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/attestation"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/result"
	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/gantry-build/gantry/cache/blob"
)

// OptKeyLayout is the image exporter's attribute that says where attestations go.
const OptKeyLayout = "attest-layout"

// The values of OptKeyLayout.
const (
	LayoutIndex     = "index"     // in the image's index, as BuildKit has it
	LayoutReferrers = "referrers" // in manifests of their own that refer to the image
)

// predicateType is the annotation by which one finds an attestation without reading it.
const predicateType = "in-toto.io/predicate-type"

// label keeps a referrer in the store for as long as its subject is there; several end in a number.
const label = "containerd.io/gc.ref.content.attestation."

// Write stores the attestations about subject as manifests that refer to it, one for each statement,
// and returns their descriptors. They are kept, and found again, by labels of the subject, and replace
// those that an earlier build has left there.
func Write(
	ctx context.Context, cs content.Store, g session.Group, atts []exporter.Attestation, names []string, subject ocispec.Descriptor,
) ([]ocispec.Descriptor, error) {
	atts, err := attestation.Unbundle(ctx, g, atts)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 BuildKit takes statements in this form
	var subjects []intoto.Subject
	for _, n := range names {
		pl, err := purl.RefToPURL(packageurl.TypeDocker, n, subject.Platform)
		if err != nil {
			return nil, err
		}
		//lint:ignore SA1019 BuildKit takes statements in this form
		subjects = append(subjects, intoto.Subject{Name: pl, Digest: result.ToDigestMap(subject.Digest)})
	}
	statements, err := attestation.MakeInTotoStatements(ctx, g, atts, subjects)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	var written []ocispec.Descriptor
	for i, s := range statements {
		d, err := writeStatement(ctx, cs, s, subject)
		if err != nil {
			return nil, err
		}
		labels[fmt.Sprint(label, i)] = d.Digest.String()
		written = append(written, d)
	}
	return written, relabel(ctx, cs, subject.Digest, labels)
}

// writeStatement makes an artifact of a statement (OCI image-spec v1.1, manifest.md, "Guidelines for
// Artifact Usage").
//
//lint:ignore SA1019 BuildKit makes statements in this form
func writeStatement(ctx context.Context, cs content.Store, s intoto.Statement, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
	said := map[string]string{predicateType: s.PredicateType}
	dt, err := json.Marshal(s)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := blob.Put(ctx, cs, ocispec.Descriptor{MediaType: intoto.PayloadType, Annotations: said}, dt)
	if err != nil {
		return layer, err
	}
	empty, err := blob.Put(ctx, cs, ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON}, ocispec.DescriptorEmptyJSON.Data)
	if err != nil {
		return empty, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: intoto.PayloadType,
		Config: empty, Layers: []ocispec.Descriptor{layer},
		Subject:     &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: said,
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Annotations: said}
	return blob.Write(ctx, cs, desc, m, empty, layer)
}

// relabel makes labels all that the subject has of their kind.
func relabel(ctx context.Context, cs content.Manager, subject digest.Digest, labels map[string]string) error {
	info, err := cs.Info(ctx, subject)
	if err != nil {
		return err
	}
	change := content.Info{Digest: subject, Labels: labels}
	var fields []string
	for k := range labels {
		fields = append(fields, "labels."+k)
	}
	for k := range info.Labels {
		if _, ok := labels[k]; !ok && isLabel(k) {
			change.Labels[k] = "" // which removes it
			fields = append(fields, "labels."+k)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	_, err = cs.Update(ctx, change, fields...)
	return err
}

func isLabel(k string) bool { return len(k) > len(label) && k[:len(label)] == label }

// Of returns the attestations that the store has about subject.
func Of(ctx context.Context, cs content.Store, subject digest.Digest) ([]ocispec.Descriptor, error) {
	info, err := cs.Info(ctx, subject)
	if err != nil {
		return nil, err
	}
	var found []ocispec.Descriptor
	for k, v := range info.Labels {
		if !isLabel(k) {
			continue
		}
		d := ocispec.Descriptor{Digest: digest.Digest(v)}
		held, err := cs.Info(ctx, d.Digest)
		if err != nil {
			return nil, fmt.Errorf("attestation %s of %s: %w", v, subject, err)
		}
		d.Size = held.Size
		m, err := blob.Manifest(ctx, cs, d)
		if err != nil {
			return nil, fmt.Errorf("attestation of %s: %w", subject, err)
		}
		d.MediaType, d.ArtifactType, d.Annotations = m.MediaType, m.ArtifactType, m.Annotations
		found = append(found, d)
	}
	slices.SortFunc(found, func(a, b ocispec.Descriptor) int { return bytes.Compare([]byte(a.Digest), []byte(b.Digest)) })
	return found, nil
}

// List makes referrers, which are in the repository already, the ones that the registry lists for
// subject. A registry with the referrers API has done so itself; for the others the list is a tag
// (OCI distribution-spec v1.1, "Referrers Tag Schema"). Two that list for the same subject at the same
// time may lose one of each other's there, as that schema has it.
func List(ctx context.Context, r remotes.Resolver, repository string, subject digest.Digest, referrers []ocispec.Descriptor) error {
	f, err := r.Fetcher(ctx, repository)
	if err != nil {
		return err
	}
	lister, ok := f.(remotes.ReferrersFetcher)
	if !ok {
		return fmt.Errorf("listing the attestations of %s: %w", subject, errors.ErrUnsupported)
	}
	listed, err := lister.FetchReferrers(ctx, subject)
	if err != nil {
		return fmt.Errorf("listing the attestations of %s: %w", subject, err)
	}
	before := len(listed)
	for _, d := range referrers {
		if !slices.ContainsFunc(listed, func(l ocispec.Descriptor) bool { return l.Digest == d.Digest }) {
			listed = append(listed, d)
		}
	}
	if len(listed) == before {
		return nil
	}
	dt, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: listed})
	if err != nil {
		return err
	}
	p, err := r.Pusher(ctx, repository+":"+subject.Algorithm().String()+"-"+subject.Encoded())
	if err != nil {
		return err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(dt), Size: int64(len(dt))}
	w, err := p.Push(ctx, d)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing the attestations of %s: %w", subject, err)
	}
	defer w.Close()
	if err := content.Copy(ctx, w, bytes.NewReader(dt), d.Size, d.Digest); err != nil {
		return fmt.Errorf("listing the attestations of %s: %w", subject, err)
	}
	return nil
}
