package farm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/leaseutil"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CacheType is the type of the cache by which results get from one machine to the other. It is kept in the store of who made it.
const CacheType = "gantry-node"

// attrWork and attrPart say which cache one is: the work's, and of which of its parts.
const attrWork, attrPart = "work", "part"

// kept is for how long a machine keeps what it made for another, and what it got from one.
const kept = time.Hour

// Exporter is a machine's that builds for others.
func (f *Farm) Exporter(_ context.Context, _ session.Group, _ map[string]string) (remotecache.Exporter, error) {
	inner := remotecache.NewExporter(f.o.Content, "", true, true, compression.New(compression.Default))
	return &exporter{inner, f}, nil
}

type exporter struct {
	remotecache.Exporter
	farm *Farm
}

// exporting is what the step is called that keeps the results.
const exporting = "keeping what was made for another node"

// Name implements remotecache.Exporter.
func (e *exporter) Name() string { return exporting }

// Finalize implements remotecache.Exporter.
func (e *exporter) Finalize(ctx context.Context) (map[string]string, error) {
	_, ctx, err := leaseutil.NewLease(context.WithoutCancel(ctx), e.farm.o.Leases, leases.WithExpiration(kept))
	if err != nil {
		return nil, err
	}
	res, err := e.Exporter.Finalize(ctx)
	if err != nil || res == nil {
		return res, err
	}
	return res, e.farm.keep(ctx, res[remotecache.ExporterResponseManifestDesc])
}

// keep has a cache's manifest, its config and its layers kept by the context's lease, also those that were here before.
func (f *Farm) keep(ctx context.Context, manifest string) error {
	var d ocispec.Descriptor
	if err := json.Unmarshal([]byte(manifest), &d); err != nil {
		return err
	}
	id, ok := leases.FromContext(ctx)
	if !ok {
		return errors.New("there is no lease")
	}
	dt, err := content.ReadBlob(ctx, f.o.Content, d)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(dt, &m); err != nil {
		return err
	}
	for _, part := range append([]ocispec.Descriptor{d, m.Config}, m.Layers...) {
		res := leases.Resource{ID: part.Digest.String(), Type: "content"}
		if err := f.o.Leases.AddResource(ctx, leases.Lease{ID: id}, res); err != nil {
			return err
		}
	}
	return nil
}

// Importer is a machine's for which others have built.
func (f *Farm) Importer(_ context.Context, _ session.Group, attrs map[string]string) (remotecache.Importer, ocispec.Descriptor, error) {
	w := f.find(attrs[attrWork])
	i, err := strconv.Atoi(attrs[attrPart])
	if w == nil || err != nil || i < 0 || i >= len(w.made) || w.made[i].Digest == "" {
		return nil, ocispec.Descriptor{}, fmt.Errorf("no other node has made part %s of %s", attrs[attrPart], attrs[attrWork])
	}
	return remotecache.NewImporter(provider{f}), w.made[i], nil
}

// provider has the bytes that other machines have.
type provider struct{ farm *Farm }

// ReaderAt implements content.Provider: what is not here is brought here.
func (p provider) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	if ra, err := p.farm.o.Content.ReaderAt(ctx, d); err == nil {
		return ra, nil
	}
	ctx, _, err := leaseutil.WithLease(ctx, p.farm.o.Leases, leases.WithExpiration(kept))
	if err != nil {
		return nil, err
	}
	if err := p.farm.o.Blobs.Fetch(ctx, d, ""); err != nil {
		return nil, err
	}
	return p.farm.o.Content.ReaderAt(ctx, d)
}
