package solver

import (
	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/azblob"
	"github.com/moby/buildkit/cache/remotecache/gha"
	inlineremotecache "github.com/moby/buildkit/cache/remotecache/inline"
	localremotecache "github.com/moby/buildkit/cache/remotecache/local"
	registryremotecache "github.com/moby/buildkit/cache/remotecache/registry"
	s3remotecache "github.com/moby/buildkit/cache/remotecache/s3"
	"github.com/moby/buildkit/session"

	"github.com/gantry-build/gantry/solver/farm"
)

// cacheExporters are where --cache-to can put a build's cache, by type: all of buildkitd's
// (cmd/buildkitd/main.go, newController, v0.34.2).
func cacheExporters(o Options, sm *session.Manager, f *farm.Farm) map[string]remotecache.ResolveCacheExporterFunc {
	all := map[string]remotecache.ResolveCacheExporterFunc{
		"registry": registryremotecache.ResolveCacheExporterFunc(sm, o.Hosts),
		"local":    localremotecache.ResolveCacheExporterFunc(sm),
		"inline":   inlineremotecache.ResolveCacheExporterFunc(),
		"gha":      gha.ResolveCacheExporterFunc(o.Config.Cache.GHA, nil),
		"s3":       s3remotecache.ResolveCacheExporterFunc(),
		"azblob":   azblob.ResolveCacheExporterFunc(),
	}
	if f != nil {
		all[farm.CacheType] = f.Exporter
	}
	return all
}

// cacheImporters are where --cache-from finds one; an inline cache is in a registry.
func cacheImporters(o Options, sm *session.Manager, cs content.Store, f *farm.Farm) map[string]remotecache.ResolveCacheImporterFunc {
	all := map[string]remotecache.ResolveCacheImporterFunc{
		"registry": registryremotecache.ResolveCacheImporterFunc(sm, cs, o.Hosts),
		"local":    localremotecache.ResolveCacheImporterFunc(sm),
		"gha":      gha.ResolveCacheImporterFunc(o.Config.Cache.GHA, nil),
		"s3":       s3remotecache.ResolveCacheImporterFunc(),
		"azblob":   azblob.ResolveCacheImporterFunc(),
	}
	if f != nil {
		all[farm.CacheType] = f.Importer
	}
	return all
}
