package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	buildx "github.com/docker/buildx/commands"
	"github.com/docker/buildx/driver"
	"github.com/docker/cli/cli/command"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/frontend/request"
)

// buildxVerbs are buildx's commands that are ours too. Their flags, output and exit codes are
// buildx's own; the builder is the daemon of this place unless another one was chosen.
var buildxVerbs = []string{"build", "bake", "du", "prune"}

// mountBuildx adds them to root, the subcommands of buildx's history to docker's history, and all of buildx as buildx.
func mountBuildx(root *cobra.Command, at *place) {
	docker, err := command.NewDockerCli(command.WithStandardStreams())
	if err != nil {
		return // it fails for unknown options only
	}
	d := &builderDriver{at: at}
	driver.Register(d)
	for _, name := range []string{"docker", "docker-container", "kubernetes"} {
		driver.Register(called{d, name})
	}
	bx := buildx.NewRootCmd("buildx", false, docker)
	for _, name := range buildxVerbs {
		cmd := child(bx, name)
		bx.RemoveCommand(cmd)
		cmd.GroupID = "build"
		cmd.Aliases = nil
		cmd.Annotations = nil
		cmd.Flags().AddFlag(bx.PersistentFlags().Lookup("builder"))
		cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return initBuildx(cmd, docker, at) }
		root.AddCommand(cmd)
	}
	extendBuild(child(root, "build"), at, d)
	mountBuildxTree(root, at, d, docker)
	mountBuilders(root, at, docker)

	history := child(root, "history")
	builds := child(bx, "history")
	for _, cmd := range builds.Commands() {
		builds.RemoveCommand(cmd)
		cmd.Flags().AddFlag(bx.PersistentFlags().Lookup("builder"))
		cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return initBuildx(cmd, docker, at) }
		history.AddCommand(cmd)
	}
	history.Short = "Show the history of an image, or of builds"
	history.Use = "history [OPTIONS] IMAGE"
}

func child(parent *cobra.Command, name string) *cobra.Command {
	for _, c := range parent.Commands() {
		if c.Name() == name {
			return c
		}
	}
	panic("there is no command " + parent.Name() + " " + name) // an upgrade has renamed it
}

// initBuildx connects to the daemon and gives buildx a directory of its own for what it notes.
func initBuildx(cmd *cobra.Command, docker *command.DockerCli, at *place) error {
	if err := at.Connect(cmd.Context()); err != nil {
		return err
	}
	// What buildx asks for unless told otherwise costs every build some runs of git and an index
	// that old tools can't read.
	defaults := map[string]string{"BUILDX_CONFIG": at.buildxDir(), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
	if !attests(cmd.Flags()) {
		defaults["BUILDX_GIT_INFO"] = "0"
	}
	for k, v := range defaults {
		if _, ok := os.LookupEnv(k); !ok || k == "BUILDX_CONFIG" {
			if err := os.Setenv(k, v); err != nil {
				return err
			}
		}
	}
	opts := cliflags.NewClientOptions()
	opts.Hosts = []string{"unix://" + at.Socket()}
	if err := docker.Initialize(opts); err != nil {
		return err
	}
	return chooseBuilder(cmd, docker)
}

func attests(f *pflag.FlagSet) bool {
	return f.Changed("attest") || f.Changed("provenance") || f.Changed("sbom")
}

// extendBuild adds to buildx's build what is gantry's own.
func extendBuild(cmd *cobra.Command, at *place, d *builderDriver) {
	cmd.Short = "Build an image for one or many platforms from a Dockerfile"
	cmd.Example = `  gantry build -t app .
  gantry build --platform linux/amd64,linux/arm/v7 -t localhost:5000/app --push .`
	f := cmd.Flags()
	var plainHTTP []string
	registryHTTPFlag(f, &plainHTTP)
	extra := &extras{}
	extra.flags(f)
	f.Lookup("load").Usage = "Accepted for buildx's sake: the image is always loaded"
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("build takes one context: a directory, an address, or - for standard input; got %d arguments", len(args))
		}
		return nil
	}
	run := cmd.RunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) (err error) {
		b, err := asked(f, args[0])
		if err != nil {
			return err
		}
		if err := b.Check(); err != nil {
			return err
		}
		if err := allowPushByDigest(f.Lookup("output")); err != nil {
			return err
		}
		if d.prepare, err = extra.apply(cmd.Context(), f, args[0]); err != nil {
			return err
		}
		if err := allowHTTP(at, plainHTTP); err != nil {
			return err
		}
		d.dirs = b.Directories()
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if err != nil && cmd.Context().Err() == nil {
			at.offerDebug(cmd.Context(), d.refs)
		}
		if extra.explainCache && cmd.Context().Err() == nil {
			noCache, _ := f.GetBool("no-cache")
			err = errors.Join(err, d.explainCache(cmd.Context(), cmd.ErrOrStderr(), noCache))
		}
		return trust.ExplainText(explainSilence(cmd, err))
	}
}

// asked is the request in a build's flags.
func asked(f *pflag.FlagSet, context string) (b request.Build, err error) {
	b.Context = context
	list := func(name string) (v []string) {
		if err == nil {
			v, err = f.GetStringArray(name)
		}
		return v
	}
	text := func(name string) (v string) {
		if err == nil {
			v, err = f.GetString(name)
		}
		return v
	}
	b.Platforms, b.Named, b.Tags = list("platform"), list("build-context"), list("tag")
	b.File, b.Progress = text("file"), text("progress")
	if err == nil {
		b.Push, err = f.GetBool("push")
	}
	return b, err
}

// byDigest is the attribute of an output that is pushed under no tag, when it is on.
var byDigest = regexp.MustCompile(`(^|,)push-by-digest=(?i:true|t|1)(,|$)`)

// allowPushByDigest writes the attribute so that buildx does not recognise it: it refuses it for all
// builders that keep results themselves, as dockerd can't do it (build/opt.go, v0.38.2). An empty value
// is on for the exporter.
func allowPushByDigest(output *pflag.Flag) error {
	values, ok := output.Value.(pflag.SliceValue)
	if !ok {
		return nil
	}
	all := values.GetSlice()
	for i, v := range all {
		all[i] = byDigest.ReplaceAllString(v, "${1}push-by-digest=$2")
	}
	return values.Replace(all)
}

// buildxDir is where buildx notes what the commands that are its own have done.
func (p *place) buildxDir() string { return filepath.Join(p.Root(), "buildx") }
