// Package image hands a build's result over to the store as an image that runs at once: the
// image's snapshots are the very ones that the build committed, under the names by which containerd
// and FROM look for them. Nothing is unpacked again, and no layer is compressed unless it is pushed.
//
// It wraps BuildKit's own image exporter (exporter/containerimage, v0.34.2), which writes configs,
// manifests, indexes and tags, and pushes. What is ours is how layers come to be, and what happens
// to the snapshots afterwards.
package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/blob"
	"github.com/gantry-build/gantry/exporter/attest"
)

// Store is what the exporter needs of the store: second names for snapshots, and names for images.
type Store interface {
	Alias(ctx context.Context, snapshot, alias, parent string) error
	Hold(ctx context.Context, snapshot string) (bool, error)
	Name(ctx context.Context, name string, target ocispec.Descriptor) error
	InRegistry(ctx context.Context, name string, d digest.Digest) error
}

// Options are the exporter's surroundings.
type Options struct {
	Stock   exporter.Exporter // BuildKit's image exporter over the same content store
	Store   Store
	Content content.Store
	Leases  *leaseutil.Manager

	Sessions *session.Manager // from which a push has its credentials
	Hosts    docker.RegistryHosts

	Made func(id digest.Digest, names []string) // is told of each image that is in the store now; may be nil
}

// OptKeySquash is the attribute that asks for one layer in place of all that the build adds to its
// base image.
const OptKeySquash = "squash"

// New returns the exporter. Its attributes are those of BuildKit's image exporter.
func New(o Options) exporter.Exporter { return &imageExporter{o} }

type imageExporter struct{ Options }

func (e *imageExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	push, _ := strconv.ParseBool(attrs[string(exptypes.OptKeyPush)])
	if v, ok := attrs[string(exptypes.OptKeyPush)]; ok && v == "" {
		push = true
	}
	store := true
	if v := attrs[string(exptypes.OptKeyStore)]; v != "" {
		var err error
		if store, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("exporter attribute store=%s: %w", v, err)
		}
	}
	// BuildKit's code would name the image before its snapshots are tied to it, and unpack it again.
	own := maps.Clone(attrs)
	if own == nil {
		own = map[string]string{}
	}
	own[string(exptypes.OptKeyStore)] = "false"
	delete(own, OptKeySquash)
	delete(own, attest.OptKeyLayout)
	delete(own, OptKeySharedLayers)
	if own[string(exptypes.OptKeyName)] == "" && !push {
		// A result without a name is kept, and found by its digest.
		own[string(exptypes.OptKeyDanglingPrefix)] = cache.DanglingPrefix
		own[string(exptypes.OptKeyDanglingEmptyOnly)] = "true"
	}
	if err := fullNames(own); err != nil {
		return nil, err
	}
	inst, err := e.Stock.Resolve(ctx, id, own)
	if err != nil {
		return nil, err
	}
	squash := false
	if v, ok := attrs[OptKeySquash]; ok {
		if squash, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("exporter attribute %s=%s: %w", OptKeySquash, v, err)
		}
	}
	referrers := false
	switch v := attrs[attest.OptKeyLayout]; v {
	case "", attest.LayoutIndex:
	case attest.LayoutReferrers:
		referrers = true
	default:
		return nil, fmt.Errorf("exporter attribute %s=%s is unknown; it is one of %s, %s",
			attest.OptKeyLayout, v, attest.LayoutReferrers, attest.LayoutIndex)
	}
	return &instance{
		ExporterInstance: inst, o: e.Options, compress: push, stock: asksForStock(attrs), squash: squash, store: store, push: push,
		referrers: referrers,
	}, nil
}

// fullNames gives the names in attrs the form under which images are looked up: app is
// docker.io/library/app:latest. What is pushed by digest has no tag, or BuildKit refuses it.
func fullNames(attrs map[string]string) error {
	byDigest := false
	if v, ok := attrs[string(exptypes.OptKeyPushByDigest)]; ok {
		var err error
		if byDigest, err = strconv.ParseBool(cmp.Or(v, "true")); err != nil {
			return fmt.Errorf("exporter attribute %s=%s: %w", exptypes.OptKeyPushByDigest, v, err)
		}
	}
	key := string(exptypes.OptKeyName)
	names := strings.Split(attrs[key], ",")
	for i, n := range names {
		if n == "" || n == "*" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return fmt.Errorf("exporter attribute name=%s: %w", n, err)
		}
		if !byDigest {
			named = reference.TagNameOnly(named)
		}
		names[i] = named.String()
	}
	if attrs[key] != "" {
		attrs[key] = strings.Join(names, ",")
	}
	return nil
}

// asksForStock says whether the layers are wanted in another form than ours, which BuildKit's own
// code then gives them.
func asksForStock(attrs map[string]string) bool {
	for _, k := range []exptypes.ImageExporterOptKey{
		exptypes.OptKeyLayerCompression, exptypes.OptKeyCompressionLevel, exptypes.OptKeyForceCompression, exptypes.OptKeyRewriteTimestamp,
		OptKeySharedLayers,
	} {
		if _, ok := attrs[string(k)]; ok {
			return true
		}
	}
	return false
}

type instance struct {
	exporter.ExporterInstance
	o         Options
	compress  bool
	stock     bool
	squash    bool
	store     bool // record the image under its names
	push      bool
	referrers bool // attestations are not in the index
}

// Export implements exporter.ExporterInstance.
func (e *instance) Export(
	ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo,
) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	// The lease keeps new blobs and names until the manifests refer to them.
	ctx, done, err := leaseutil.WithLease(ctx, e.o.Leases, leaseutil.MakeTemporary)
	if err != nil {
		return nil, nil, nil, err
	}
	defer done(context.WithoutCancel(ctx))

	src, results := e.wrap(src)
	if err := e.ready(ctx, results, session.NewGroup(info.SessionID)); err != nil {
		return nil, nil, nil, err
	}
	if src, err = e.layered(ctx, src, session.NewGroup(info.SessionID)); err != nil {
		return nil, nil, nil, err
	}
	src, atts := e.apart(src)
	resp, finalize, desc, err := e.ExporterInstance.Export(ctx, src, info)
	if err != nil {
		return nil, nil, nil, err
	}
	err = e.handOver(ctx, desc, results)
	names := resp[exptypes.ExporterImageNameKey]
	if err == nil && atts != nil {
		finalize, err = e.refer(ctx, desc.Descriptor(), names, src, atts, info.SessionID, finalize)
	}
	if err == nil && e.store {
		err = e.record(ctx, names, desc.Descriptor())
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, desc.Release())
	}
	return resp, e.noting(finalize, names, desc.Descriptor()), desc, nil
}

// wrap replaces every reference by one whose layers are made by this package.
func (e *instance) wrap(src *exporter.Source) (*exporter.Source, []*ref) {
	var all []*ref
	// Attestations are about digests, so these have to be final.
	compress := e.compress || len(src.Attestations) > 0
	wrap := func(r bkcache.ImmutableRef, id string) bkcache.ImmutableRef {
		if r == nil {
			return nil
		}
		w := &ref{ImmutableRef: r, content: e.o.Content, leases: e.o.Leases, compress: compress, stock: e.stock, squash: e.squash}
		if e.squash {
			w.base = baseLayers(src, id)
		}
		all = append(all, w)
		return w
	}
	clone := src.Clone()
	if clone.Ref != nil {
		clone.SetRef(wrap(clone.Ref, ""))
	}
	refs := clone.Refs
	clone.Refs = nil
	for id, r := range refs {
		clone.AddRef(id, wrap(r, id))
	}
	return clone, all
}

// baseLayers is how many layers the result of platform id has from its base image.
func baseLayers(src *exporter.Source, id string) int {
	dt := exptypes.ParseKey(src.Metadata, exptypes.ExporterImageBaseConfigKey, &exptypes.Platform{ID: id})
	var base ocispec.Image
	if len(dt) == 0 || json.Unmarshal(dt, &base) != nil {
		return 0 // FROM scratch
	}
	return len(base.RootFS.DiffIDs)
}

// ready makes every result a committed snapshot, which is what can be a container's parent, makes its
// layers and names its snapshots.
func (e *instance) ready(ctx context.Context, results []*ref, g session.Group) error {
	cfg := config.RefConfig{Compression: e.Config().Compression()}
	eg, ctx := errgroup.WithContext(ctx)
	for _, r := range results {
		eg.Go(func() error {
			if err := r.Extract(ctx, g); err != nil {
				return err
			}
			if err := r.Finalize(ctx); err != nil {
				return err
			}
			if _, err := r.GetRemotes(ctx, true, cfg, false, g); err != nil {
				return err
			}
			return e.name(ctx, r)
		})
	}
	return eg.Wait()
}

// record gives the image its names. Those that had them are kept without.
func (e *instance) record(ctx context.Context, names string, target ocispec.Descriptor) error {
	for _, name := range split(names) {
		done := progress.OneOff(ctx, "naming to "+name)
		if err := done(e.o.Store.Name(ctx, recorded(name, target), target)); err != nil {
			return err
		}
	}
	if e.o.Made != nil {
		e.o.Made(target.Digest, split(names))
	}
	return nil
}

// recorded is the name that an image has in the store for one that it is exported under. What is pushed by digest
// has no tag.
func recorded(name string, target ocispec.Descriptor) string {
	if named, err := reference.ParseNormalizedNamed(name); err == nil && reference.IsNameOnly(named) {
		return name + "@" + target.Digest.String()
	}
	return name
}

// noting is finalize, which pushes the image, and notes then that the registry has it.
func (e *instance) noting(finalize exporter.FinalizeFunc, names string, target ocispec.Descriptor) exporter.FinalizeFunc {
	if !e.push || !e.store || finalize == nil {
		return finalize
	}
	return func(ctx context.Context) error {
		if err := finalize(ctx); err != nil {
			return err
		}
		for _, name := range split(names) {
			if err := e.o.Store.InRegistry(ctx, recorded(name, target), target.Digest); err != nil {
				return err
			}
		}
		return nil
	}
}

// handOver ties each manifest's config to the snapshots of its result.
func (e *instance) handOver(ctx context.Context, desc exporter.DescriptorReference, results []*ref) error {
	done := progress.OneOff(ctx, "handing over to the store")
	configs, err := configsOf(ctx, e.o.Content, desc.Descriptor())
	if err != nil {
		return done(err)
	}
	for _, r := range results {
		if r.remote == nil || len(r.remote.Descriptors) == 0 {
			continue // FROM scratch and nothing in it
		}
		mine := configs[key(r.diffIDs())]
		if len(mine) == 0 && r.stock {
			continue // with other time stamps the layers are no longer those of the snapshots
		}
		if len(mine) == 0 {
			return done(fmt.Errorf("no manifest of %s has the layers of snapshot %s", desc.Descriptor().Digest, r.snapshot()))
		}
		for _, c := range mine {
			if err := blob.Label(ctx, e.o.Content, c.Digest, r.labels); err != nil {
				return done(err)
			}
		}
	}
	return done(nil)
}
