// Package attest says what is in an image and how it came to be: it makes the SBOM of a result in
// this process, and lays in-toto statements beside images as OCI referrers, so that an index has the
// platforms in it that one can run, and nothing else.
//
// Statements are in-toto's (github.com/in-toto/attestation); provenance in them is BuildKit's SLSA
// predicate; the other layout, in which attestations are manifests of the index under a platform
// "unknown/unknown", is BuildKit's own (docs/attestations/attestation-storage.md there).
package attest

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/containerd/platforms"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/exporter/util/epoch"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver/result"
	"github.com/moby/buildkit/util/progress"
)

// OptKeySBOM is the attribute of any exporter that asks for an SBOM of each platform's result.
const OptKeySBOM = "attest-sbom"

// Scan reads the packages below root, a result's file system, into an SPDX document in JSON. name is
// what the document is about, created the time that it bears.
type Scan func(ctx context.Context, root, name string, created time.Time) ([]byte, error)

// New returns stock with OptKeySBOM.
func New(stock exporter.Exporter, scan Scan) exporter.Exporter { return &scanning{stock, scan} }

type scanning struct {
	stock exporter.Exporter
	scan  Scan
}

func (e *scanning) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	v, ok := attrs[OptKeySBOM]
	if !ok {
		return e.stock.Resolve(ctx, id, attrs)
	}
	wanted, err := strconv.ParseBool(v)
	if err != nil {
		return nil, fmt.Errorf("exporter attribute %s=%s: %w", OptKeySBOM, v, err)
	}
	attrs = maps.Clone(attrs)
	delete(attrs, OptKeySBOM)
	inst, err := e.stock.Resolve(ctx, id, attrs)
	if err != nil || !wanted {
		return inst, err
	}
	return &scanningInstance{inst, e.scan}, nil
}

type scanningInstance struct {
	exporter.ExporterInstance
	scan Scan
}

// Export implements exporter.ExporterInstance.
func (e *scanningInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	src, err := e.scanned(ctx, src, session.NewGroup(info.SessionID))
	if err != nil {
		return nil, nil, nil, err
	}
	return e.ExporterInstance.Export(ctx, src, info)
}

// scanned adds to a result the attestations of what is in it.
func (e *scanningInstance) scanned(ctx context.Context, src *exporter.Source, g session.Group) (*exporter.Source, error) {
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	src = src.Clone()
	atts := src.Attestations
	src.Attestations = nil
	for id, all := range atts { // Clone shares the map
		for _, a := range all {
			src.AddAttestation(id, a)
		}
	}
	for _, p := range ps.Platforms {
		ref, ok := src.FindRef(p.ID)
		if !ok || ref == nil {
			continue // FROM scratch, and nothing in it
		}
		created := time.Now()
		if tm, err := epoch.ParseSource(src, &p); err == nil && tm != nil {
			created = *tm
		}
		done := progress.OneOff(ctx, "scanning "+platforms.Format(p.Platform)+" for the SBOM")
		doc, err := e.read(ctx, ref, g, platforms.Format(p.Platform), created.UTC())
		if done(err) != nil {
			return nil, fmt.Errorf("SBOM of %s: %w", platforms.Format(p.Platform), err)
		}
		src.AddAttestation(p.ID, exporter.Attestation{
			Kind:        gatewaypb.AttestationKind_InToto,
			Metadata:    map[string][]byte{result.AttestationReasonKey: []byte(result.AttestationReasonSBOM)},
			Path:        "sbom.spdx.json",
			ContentFunc: func(context.Context) ([]byte, error) { return doc, nil },
			InToto:      result.InTotoAttestation{PredicateType: intoto.PredicateSPDX},
		})
	}
	return src, nil
}

func (e *scanningInstance) read(ctx context.Context, ref bkcache.ImmutableRef, g session.Group, name string, created time.Time) ([]byte, error) {
	mountable, err := ref.Mount(ctx, true, g)
	if err != nil {
		return nil, err
	}
	lm := snapshot.LocalMounter(mountable)
	root, err := lm.Mount()
	if err != nil {
		return nil, err
	}
	doc, err := e.scan(ctx, root, name, created)
	if uerr := lm.Unmount(); err == nil && uerr != nil {
		return nil, uerr
	}
	return doc, err
}
