// Package placement says on which nodes of a cluster a task can run, by the platforms of its image: variants count, and an
// emulator is taken only where nobody runs the image natively and the service allows it. It takes the place of SwarmKit's own
// filter, which knows one platform for each node and no variant.
package placement

import (
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/swarmkit/v2/api"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// Native and Emulated are the types of the plugins by which a node says what it can run: SwarmKit has no field for it.
	Native   = "NativePlatform"
	Emulated = "EmulatedPlatform"

	// EmulateLabel on a service's containers allows emulators, when it is "true". A label of the service itself would not
	// reach tasks that wait already.
	EmulateLabel = "com.gantry.emulate"
)

// Describe notes in a node's description what it runs natively, and what under an emulator.
func Describe(d *api.EngineDescription, native, emulated []ocispec.Platform) {
	note := func(kind string, all []ocispec.Platform) {
		for _, p := range all {
			d.Plugins = append(d.Plugins, api.PluginDescription{Type: kind, Name: platforms.Format(platforms.Normalize(p))})
		}
	}
	note(Native, native)
	note(Emulated, emulated)
}

// FromImage has an image's platforms as a task's placement has them. There is no field for the variant: it follows the
// architecture, as in arm/v7.
func FromImage(all []ocispec.Platform) (out []*api.Platform) {
	for _, p := range all {
		if p.OS == "unknown" || p.Architecture == "unknown" { // attestations
			continue
		}
		p = platforms.Normalize(p)
		arch := p.Architecture
		if p.Variant != "" {
			arch += "/" + p.Variant
		}
		out = append(out, &api.Platform{OS: p.OS, Architecture: arch})
	}
	return out
}

// toOCI reads a platform of SwarmKit's, which may be named as uname(2) does.
func toOCI(p api.Platform) ocispec.Platform {
	arch, variant, _ := strings.Cut(p.Architecture, "/")
	switch arch {
	case "armv7l":
		arch, variant = "arm", "v7"
	case "armv6l":
		arch, variant = "arm", "v6"
	case "i686":
		arch = "386"
	}
	os := p.OS
	if os == "" {
		os = "linux"
	}
	return platforms.Normalize(ocispec.Platform{OS: os, Architecture: arch, Variant: variant})
}

// of are the platforms of a kind that a node has noted; natively at least its own.
func of(kind string, d *api.NodeDescription) (all []ocispec.Platform) {
	if d == nil {
		return nil
	}
	if d.Engine != nil {
		for _, plugin := range d.Engine.Plugins {
			if p, err := platforms.Parse(plugin.Name); plugin.Type == kind && err == nil {
				all = append(all, p)
			}
		}
	}
	if len(all) == 0 && kind == Native && d.Platform != nil {
		all = append(all, toOCI(*d.Platform))
	}
	return all
}

// runs tells whether one of the platforms that a node has is good for one of an image's.
func runs(has, image []ocispec.Platform) bool {
	for _, p := range has {
		match := platforms.Only(p) // older variants of it, too
		if p.Architecture == "arm64" {
			match = platforms.OnlyStrict(p) // 32-bit programs are a platform that the node names when it has it
		}
		for _, wanted := range image {
			if wanted.Architecture == "" || match.Match(wanted) {
				return true
			}
		}
	}
	return false
}

// RunsNatively tells whether a node runs a platform without an emulator.
func RunsNatively(d *api.NodeDescription, p ocispec.Platform) bool {
	return runs(of(Native, d), []ocispec.Platform{platforms.Normalize(p)})
}

// Choose is which of an image's platforms a node runs: one that it has natively if there is one, else one that it emulates; nil
// where nothing is known of the image.
func Choose(d *api.NodeDescription, p *api.Placement) *ocispec.Platform {
	if p == nil {
		return nil
	}
	for _, kind := range []string{Native, Emulated} {
		for _, has := range of(kind, d) {
			for _, wanted := range p.Platforms {
				if image := toOCI(*wanted); runs([]ocispec.Platform{has}, []ocispec.Platform{image}) {
					return &image
				}
			}
		}
	}
	return nil
}

// names has one word for each kind of machine, as people name them: amd64 for all its variants and what it runs of older ones, and
// the best of arm's.
func names(all []ocispec.Platform) string {
	var words []string
	for _, p := range all {
		if p.Architecture == "amd64" {
			p.Variant = ""
		}
		better := func(q ocispec.Platform) bool {
			return q.OS == p.OS && (q.Architecture == "arm" && p.Architecture == "arm" && q.Variant > p.Variant ||
				q.Architecture == "amd64" && p.Architecture == "386")
		}
		if word := platforms.Format(p); !slices.Contains(words, word) && !slices.ContainsFunc(all, better) {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}
