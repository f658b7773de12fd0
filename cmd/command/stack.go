package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	compose "github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/gantry-build/gantry/internal/memfile"
)

// stackFlags are those that Compose has and the Docker CLI's stack commands have not.
type stackFlags struct {
	files    *pflag.Flag
	envFiles []string
	profiles []string
	build    func(ctx context.Context, project *types.Project) error // nil: nothing is built
}

// extendStack has the Docker CLI's commands for stacks read Compose files as `gantry compose` does. The CLI's own reader
// knows the format of 2019 only.
func extendStack(cmd *cobra.Command, at *place) {
	build := child(cmd, "deploy").Flags().Bool("build", false, "Build the services' images here, for the nodes that may run them")
	for _, c := range []*cobra.Command{child(cmd, "deploy"), child(cmd, "config")} {
		f := stackFlags{files: c.Flag("compose-file")}
		c.Flags().StringArrayVar(&f.envFiles, "env-file", nil, "Environment file for variables in the Compose file")
		c.Flags().StringArrayVar(&f.profiles, "profile", nil, "Profile to enable")
		c.PreRunE = func(cmd *cobra.Command, args []string) error {
			if raw, err := cmd.Flags().GetBool("skip-interpolation"); err == nil && raw {
				return nil // a file with variables in the place of numbers can't be understood, only merged, which the CLI does
			}
			name := "stack"
			if len(args) > 0 {
				name = args[0]
			}
			if *build {
				f.build = func(ctx context.Context, project *types.Project) error {
					return at.buildStack(ctx, project, cmd.Flags().Changed("quiet"))
				}
			}
			return f.read(cmd, name)
		}
	}
	child(cmd, "config").PersistentPreRunE = func(*cobra.Command, []string) error { return nil } // it needs no daemon
}

// read puts a file in memory, in the format of the CLI's reader, into the place of the files that were named.
func (f stackFlags) read(cmd *cobra.Command, stack string) error {
	named := f.files.Value.(pflag.SliceValue)
	files := named.GetSlice()
	if len(files) == 0 {
		return nil // the CLI says what is missing
	}
	project, err := f.project(cmd.Context(), files, stack)
	if err != nil {
		return withPlace(err, files)
	}
	if f.build != nil {
		if err := f.build(cmd.Context(), project); err != nil {
			return withPlace(err, files)
		}
	}
	lowered, warnings, errs := lowerStack(project, stackFile)
	for i, err := range errs {
		errs[i] = withPlace(err, files)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "gantry:", withPlace(errors.New(w), files))
	}
	data, err := yaml.Marshal(lowered)
	if err != nil {
		return err
	}
	path, err := stackFile("stack", []byte(strings.ReplaceAll(string(data), "$", "$$"))) // it has been interpolated
	if err != nil {
		return err
	}
	return named.Replace([]string{path})
}

// project is what the files say, with paths from where the first is, and all variables in their places.
func (f stackFlags) project(ctx context.Context, files []string, stack string) (*types.Project, error) {
	o, err := compose.NewProjectOptions(files, compose.WithOsEnv, compose.WithEnvFiles(f.envFiles...), compose.WithDotEnv,
		compose.WithName(loader.NormalizeProjectName(stack)), compose.WithDefaultProfiles(f.profiles...),
		compose.WithResolvedPaths(true), compose.WithDiscardEnvFile)
	if err != nil {
		return nil, err
	}
	return o.LoadProject(ctx)
}

// stackFile keeps data in memory until the program ends, as nothing of a secret may be on a disk, and returns by which path
// it is read.
func stackFile(name string, data []byte) (string, error) {
	f, err := memfile.New(name, false)
	if err != nil {
		return "", err
	}
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	stackFiles = append(stackFiles, f)
	return memfile.Path(f), nil
}

// stackFiles holds the files that are read by their paths, which are good while they are open.
var stackFiles []*os.File
