package attest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/attestation"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/result"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layered says in the SBOM of a result which of its layers each file is from, as BuildKit does for the
// layers that it has made itself (exporter/containerimage/attestations.go, v0.34.2): a file's comment
// becomes "layerID: " and the layer's digest. Files that have a comment, or are in none of the layers, stay
// as they are. The attestations come back in single pieces.
func Layered(
	ctx context.Context, g session.Group, atts []exporter.Attestation, provider content.Provider, layers []ocispec.Descriptor,
) ([]exporter.Attestation, error) {
	atts, err := attestation.Unbundle(ctx, g, atts)
	if err != nil {
		return nil, err
	}
	for i, a := range atts {
		core, ok := a.Metadata[result.AttestationSBOMCore]
		if !ok || a.InToto.PredicateType != intoto.PredicateSPDX || path.Base(a.Path) != string(core)+".spdx.json" {
			continue
		}
		text, err := attestation.ReadAll(ctx, g, a)
		if err != nil {
			return nil, err
		}
		if text, err = withLayers(ctx, text, provider, layers); err != nil {
			return nil, err
		}
		a.ContentFunc = func(context.Context) ([]byte, error) { return text, nil }
		a.Ref = nil
		a.Metadata = maps.Clone(a.Metadata)
		delete(a.Metadata, result.AttestationSBOMCore) // or BuildKit would do it again
		atts[i] = a
	}
	return atts, nil
}

func withLayers(ctx context.Context, text []byte, provider content.Provider, layers []ocispec.Descriptor) ([]byte, error) {
	var doc map[string]any
	if json.Unmarshal(text, &doc) != nil {
		return text, nil // a scanner's own form
	}
	wanted := map[string]map[string]any{}
	files, _ := doc["files"].([]any)
	for _, f := range files {
		file, _ := f.(map[string]any)
		name, _ := file["fileName"].(string)
		if comment, _ := file["comment"].(string); name != "" && comment == "" {
			wanted[path.Join("/", name)] = file
		}
	}
	for i := len(layers) - 1; i >= 0 && len(wanted) > 0; i-- {
		err := eachFile(ctx, provider, layers[i], func(name string) {
			if file, ok := wanted[name]; ok {
				file["comment"] = "layerID: " + layers[i].Digest.String()
				delete(wanted, name)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("files of layer %s: %w", layers[i].Digest, err)
		}
	}
	return json.Marshal(doc)
}

// eachFile calls f with the absolute name of everything in a layer.
func eachFile(ctx context.Context, provider content.Provider, layer ocispec.Descriptor, f func(name string)) error {
	ra, err := provider.ReaderAt(ctx, layer)
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return err
	}
	defer plain.Close()
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		f(path.Join("/", h.Name))
	}
}
