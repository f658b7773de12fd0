package command

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/docker/buildx/driver"
	"github.com/moby/buildkit/client"
	"github.com/spf13/pflag"

	"github.com/gantry-build/gantry/exporter/attest"
	"github.com/gantry-build/gantry/exporter/image"
	"github.com/gantry-build/gantry/solver"
)

// extras are the flags of build that buildx does not have.
type extras struct {
	reproducible bool
	cpus         float64
	attestLayout string
	explainCache bool
}

func (e *extras) flags(f *pflag.FlagSet) {
	f.BoolVar(&e.reproducible, "reproducible", false, "Give the same digest for the same sources: time stamps are the last git commit's (or SOURCE_DATE_EPOCH), compression is fixed")
	f.Float64Var(&e.cpus, "cpus", 0, "Number of CPUs that each step may use, such as 1.5")
	f.BoolVar(&e.explainCache, "explain-cache", false, "Tell at the end which steps came from the cache, how the others ran, and which input has changed that made them run")
	f.StringVar(&e.attestLayout, "attest-layout", attest.LayoutReferrers, "Where an image's attestations go: \"referrers\", manifests of their own that refer to the image, or \"index\", in the image's index, as buildx does")
	squash := f.Lookup("squash")
	squash.Hidden, squash.Annotations = false, nil
	squash.Usage = "Make one layer of all that the build adds to its base image"
	// buildx has it, and hides it.
	memory := f.Lookup("memory")
	memory.Hidden = false
	memory.Usage = "Memory that each step may use, such as 2g"
}

// apply returns how the request of a build of context is to be changed.
func (e *extras) apply(ctx context.Context, f *pflag.FlagSet, buildContext string) (func(*driver.PrepareBuildOptions) error, error) {
	if e.cpus < 0 {
		return nil, fmt.Errorf("--cpus %v: a number of CPUs is positive", e.cpus)
	}
	if e.attestLayout != attest.LayoutReferrers && e.attestLayout != attest.LayoutIndex {
		return nil, fmt.Errorf("--attest-layout %s is unknown; it is one of %s, %s", e.attestLayout, attest.LayoutReferrers, attest.LayoutIndex)
	}
	if e.cpus > 0 {
		for flag, v := range map[string]string{"cpu-period": cpuPeriod, "cpu-quota": strconv.Itoa(int(e.cpus * 100_000))} {
			if err := f.Set(flag, v); err != nil {
				return nil, err
			}
		}
	}
	epoch := ""
	if e.reproducible {
		var err error
		if epoch, err = sourceDate(ctx, buildContext); err != nil {
			return nil, err
		}
	}
	squash, err := f.GetBool("squash")
	if err != nil {
		return nil, err
	}
	return func(o *driver.PrepareBuildOptions) error {
		if e.explainCache {
			o.SolveOpt.FrontendAttrs[solver.OptKeyExplain] = ""
		}
		exports(o.SolveOpt, map[string]string{attest.OptKeyLayout: e.attestLayout}, client.ExporterImage)
		if squash {
			exports(o.SolveOpt, map[string]string{image.OptKeySquash: "true"}, client.ExporterImage)
		}
		if epoch != "" {
			reproduce(o.SolveOpt, epoch)
		}
		return nil
	}, nil
}

// exports adds attributes to the outputs of the given types, where they have none of that name.
func exports(o *client.SolveOpt, attrs map[string]string, types ...string) {
	for i, e := range o.Exports {
		if !slices.Contains(types, e.Type) {
			continue
		}
		all := maps.Clone(attrs)
		maps.Copy(all, e.Attrs)
		o.Exports[i].Attrs = all
	}
}

// cpuPeriod is the kernel's usual one, in microseconds, and docker's for --cpus.
const cpuPeriod = "100000"

// reproduce asks for a result that depends on the sources only.
func reproduce(o *client.SolveOpt, epoch string) {
	o.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"] = epoch
	exports(o, map[string]string{"rewrite-timestamp": "true", "compression": "gzip", "force-compression": "true"},
		client.ExporterImage, client.ExporterOCI, client.ExporterDocker)
}
