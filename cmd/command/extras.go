package command

import (
	"context"
	"fmt"

	"github.com/docker/buildx/driver"
	"github.com/moby/buildkit/client"
	"github.com/spf13/pflag"

	"github.com/gantry-build/gantry/exporter/attest"
	"github.com/gantry-build/gantry/exporter/image"
	"github.com/gantry-build/gantry/frontend/request"
	"github.com/gantry-build/gantry/solver/explain"
)

// extras are the flags of build that buildx does not have.
type extras struct {
	reproducible bool
	cpus         float64
	attestLayout string
	explainCache bool
}

func (e *extras) flags(f *pflag.FlagSet) {
	f.BoolVar(&e.reproducible, "reproducible", false,
		"Give the same digest for the same sources: time stamps are the last git commit's (or SOURCE_DATE_EPOCH), compression is fixed")
	f.Float64Var(&e.cpus, "cpus", 0, "Number of CPUs that each step may use, such as 1.5")
	f.BoolVar(&e.explainCache, "explain-cache", false,
		"Tell at the end which steps came from the cache, how the others ran, and which input has changed that made them run")
	f.StringVar(&e.attestLayout, "attest-layout", attest.LayoutReferrers,
		"Where an image's attestations go: \"referrers\", manifests of their own that refer to the image, "+
			"or \"index\", in the image's index, as buildx does")
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
	period, quota, err := request.CPUs(e.cpus)
	if err != nil {
		return nil, err
	}
	if e.attestLayout != attest.LayoutReferrers && e.attestLayout != attest.LayoutIndex {
		return nil, fmt.Errorf("--attest-layout %s is unknown; it is one of %s, %s",
			e.attestLayout, attest.LayoutReferrers, attest.LayoutIndex)
	}
	if e.cpus > 0 {
		for flag, v := range map[string]string{"cpu-period": period, "cpu-quota": quota} {
			if err := f.Set(flag, v); err != nil {
				return nil, err
			}
		}
	}
	epoch := ""
	if e.reproducible {
		if epoch, err = request.SourceDate(ctx, buildContext); err != nil {
			return nil, err
		}
	}
	squash, err := f.GetBool("squash")
	if err != nil {
		return nil, err
	}
	return func(o *driver.PrepareBuildOptions) error {
		if e.explainCache {
			o.SolveOpt.FrontendAttrs[explain.OptKey] = ""
		}
		request.AddAttributes(o.SolveOpt, map[string]string{attest.OptKeyLayout: e.attestLayout}, client.ExporterImage)
		if squash {
			request.AddAttributes(o.SolveOpt, map[string]string{image.OptKeySquash: "true"}, client.ExporterImage)
		}
		if epoch != "" {
			request.Reproduce(o.SolveOpt, epoch)
		}
		return nil
	}, nil
}
