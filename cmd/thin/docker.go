package thin

import (
	"os"
	"slices"
	_ "unsafe" // for go:linkname

	"github.com/docker/cli/cli/command"
	_ "github.com/docker/cli/cli/command/builder"
	_ "github.com/docker/cli/cli/command/container"
	_ "github.com/docker/cli/cli/command/context"
	_ "github.com/docker/cli/cli/command/image"
	_ "github.com/docker/cli/cli/command/network"
	_ "github.com/docker/cli/cli/command/registry"
	_ "github.com/docker/cli/cli/command/system"
	_ "github.com/docker/cli/cli/command/volume"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/docker/cli/cli/version"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// mounted are the Docker CLI's verbs that the daemon answers. Their flags, output and exit codes
// are the Docker CLI's own.
var mounted = []string{
	"run", "create", "start", "stop", "restart", "kill", "rm", "ps", "logs", "attach", "wait", "exec", "inspect",
	"pause", "unpause", "rename", "top", "port", "events", "stats", "cp", "diff", "commit", "export", "update",
	"images", "tag", "rmi", "pull", "push", "import", "save", "load", "history", "login", "logout", "info", "version",
	"container", "image", "network", "volume", "system", "builder", "context", "search",
	"swarm", "node", "service", "stack", "secret", "config", // the engine's
}

// extended are those of them that the engine adds to.
var extended = []string{"pull", "push", "history", "system", "builder"}

// registered are the commands of the Docker CLI's packages that the program links. The CLI shows them by a package that
// links all, and so Swarm's API and the schemas of Compose files, whose initialisation is half of a command's time. A
// Docker CLI without this function does not link.
//
//go:linkname registered github.com/docker/cli/internal/commands.Commands
func registered() []func(command.Cli) *cobra.Command

// MountDocker adds them to root. The daemon is started before the first of them runs.
func MountDocker(root *cobra.Command, at *Place) { mount(root, at, mounted) }

func mount(root *cobra.Command, at *Place, verbs []string) {
	docker, err := command.NewDockerCli(command.WithStandardStreams())
	if err != nil {
		return // it fails for unknown options only
	}
	at.prepareCompletion(docker, os.Args)
	version.Version, version.GitCommit, version.BuildTime = Version, "", "" // of the client, in `version`
	for _, command := range registered() {
		cmd := command(docker)
		if !slices.Contains(verbs, cmd.Name()) {
			continue
		}
		cmd.GroupID = groupRun
		cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
			if err := at.Connect(cmd.Context()); err != nil {
				return err
			}
			opts := cliflags.NewClientOptions()
			opts.Hosts = []string{"unix://" + at.Socket()}
			return docker.Initialize(opts)
		}
		root.AddCommand(cmd)
	}
}

// prepareCompletion makes the Docker CLI ready to be asked for names when a shell completes a command line: nothing else
// runs before it. Which daemon is meant is read from the line, as far as it is there. None is started.
func (p *Place) prepareCompletion(docker *command.DockerCli, args []string) {
	if len(args) < 2 || args[1] != cobra.ShellCompRequestCmd && args[1] != cobra.ShellCompNoDescRequestCmd {
		return
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	at := *p
	at.Flags(flags)
	_ = flags.Parse(args[2:]) // what is not finished yet
	opts := cliflags.NewClientOptions()
	opts.Hosts = []string{"unix://" + at.Socket()}
	_ = docker.Initialize(opts)
}
