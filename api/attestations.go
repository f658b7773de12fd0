package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/attest"
	"github.com/gantry-build/gantry/internal/fault"
)

// attestations answers GET /images/{name}/attestations: the in-toto statements about one platform, which are in the
// image's index or refer to its manifest.
func (i *Images) attestations(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := cache.WithNamespace(r.Context())
	if len(r.URL.Query()["platform"]) > 1 {
		return fault.Invalid("only one platform value is currently supported")
	}
	asked, err := platformOf(r)
	if err != nil {
		return err
	}
	rec, err := i.Store.Lookup(ctx, name)
	if err != nil {
		return err
	}
	all := i.parts(ctx, rec, nil)
	about := best(all, asked)
	if about == nil && asked != nil {
		return fault.NotFound("image %s has no platform %s here", name, platforms.Format(*asked))
	}
	var types []string
	for _, t := range r.URL.Query()["type"] {
		if t = strings.TrimSpace(t); t != "" {
			types = append(types, t)
		}
	}
	out := []image.AttestationStatement{}
	if about == nil {
		return writeJSON(w, http.StatusOK, out)
	}
	manifests, err := attest.Of(ctx, i.Store.Client.ContentStore(), about.Descriptor.Digest)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.AttestationData != nil && p.AttestationData.For == about.Descriptor.Digest {
			manifests = append(manifests, p.Descriptor)
		}
	}
	for _, m := range manifests {
		said, err := i.statements(ctx, m, types, flag(r, "statement"))
		if err != nil {
			return err
		}
		out = append(out, said...)
	}
	return writeJSON(w, http.StatusOK, out)
}

// statements are those of an attestation manifest, of some predicate types or of all.
func (i *Images) statements(
	ctx context.Context, manifest ocispec.Descriptor, types []string, body bool,
) (out []image.AttestationStatement, err error) {
	cs := i.Store.Client.ContentStore()
	m, err := blob.Manifest(ctx, cs, manifest)
	if err != nil {
		return nil, err
	}
	for _, layer := range m.Layers {
		kind := layer.Annotations["in-toto.io/predicate-type"]
		if kind == "" || len(types) > 0 && !slices.Contains(types, kind) {
			continue
		}
		s := image.AttestationStatement{Descriptor: layer, PredicateType: kind}
		if body {
			data, err := content.ReadBlob(ctx, cs, layer)
			if err != nil {
				return nil, err
			}
			raw := json.RawMessage(data)
			s.Statement = &raw
		}
		out = append(out, s)
	}
	return out, nil
}
