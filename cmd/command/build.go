package command

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/cmd/ui"
	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/frontend"
	"github.com/gantry-build/gantry/solver"
)

func buildCommand(at *place) *cobra.Command {
	b := &frontend.Build{}
	var progress string
	var quiet, load bool
	var plainHTTP []string
	cmd := &cobra.Command{
		Use:     "build [OPTIONS] DIR",
		GroupID: "build",
		Short:   "Build an image for one or many platforms from a Dockerfile",
		Example: `  gantry build -t app .
  gantry build --platform linux/amd64,linux/arm/v7 -t localhost:5000/app --push .`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("build takes one directory, the build context; got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			b.Context = args[0]
			if quiet {
				progress = "quiet"
			}
			if err := allowHTTP(at, plainHTTP); err != nil {
				return err
			}
			digest, err := build(cmd.Context(), at, b, progress)
			if err == nil && quiet {
				fmt.Fprintln(cmd.OutOrStdout(), digest)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&b.Dockerfile, "file", "f", "", "the Dockerfile (default DIR/Dockerfile)")
	f.StringArrayVarP(&b.Tags, "tag", "t", nil, "name of the image, as NAME or NAME:TAG")
	f.StringArrayVar(&b.Platforms, "platform", nil, "platforms to build for, such as linux/amd64,linux/arm/v7 (default: this machine's)")
	f.StringArrayVar(&b.Args, "build-arg", nil, "value of an ARG, as NAME=value, or NAME for the environment's")
	f.StringArrayVar(&b.Labels, "label", nil, "label of the image, as name=value")
	f.StringVar(&b.Target, "target", "", "the stage to build")
	f.BoolVar(&b.NoCache, "no-cache", false, "run every step again")
	f.BoolVar(&b.Pull, "pull", false, "ask the registry for newer base images, also when there is a local one")
	f.BoolVar(&b.Push, "push", false, "push the result to the registry of its name")
	f.BoolVar(&load, "load", false, "accepted for buildx's sake: the image is always loaded")
	f.BoolVarP(&quiet, "quiet", "q", false, "print nothing but the image's digest")
	f.StringVar(&progress, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "how to show progress: auto, tty, plain, quiet, rawjson")
	registryHTTPFlag(f, &plainHTTP)
	return cmd
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// build sends the request to the daemon and returns the digest of what it made.
func build(ctx context.Context, at *place, b *frontend.Build, progress string) (string, error) {
	if err := ui.CheckMode(progress); err != nil {
		return "", err
	}
	opt, dirs, err := b.Solve()
	if err != nil {
		return "", err
	}
	if err := at.connect(ctx); err != nil {
		return "", err
	}
	if opt.SharedKey, err = sharedKey(dirs); err != nil {
		return "", err
	}
	c, err := at.builder(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	status := make(chan *client.SolveStatus)
	var resp *client.SolveResponse
	var eg errgroup.Group
	eg.Go(func() (err error) {
		resp, err = c.Solve(ctx, nil, opt, status)
		return err
	})
	shown := ui.Progress(ctx, progress, status)
	if err := eg.Wait(); err != nil {
		return "", explain(b, err)
	}
	if shown != nil {
		return "", shown
	}
	digest := resp.ExporterResponse[exptypes.ExporterImageDigestKey]
	if digest == "" {
		return "", errors.New("the build gave no image")
	}
	return digest, nil
}

// sharedKey tells the daemon where the local directories are.
func sharedKey(dirs map[string]string) (string, error) {
	known := map[string]solver.Directory{}
	for name, dir := range dirs {
		d, err := solver.Stat(dir)
		if err != nil {
			return "", err
		}
		known[name] = d
	}
	return solver.SharedKey(known), nil
}

// explain adds the next step to failures of a registry.
func explain(b *frontend.Build, err error) error {
	if !b.Push || len(b.Tags) == 0 {
		return err
	}
	return trust.Explain(frontend.Host(b.Tags[0]), err)
}
