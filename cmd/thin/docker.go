package thin

import (
	"slices"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
)

// mounted are the Docker CLI's verbs that the daemon answers. Their flags, output and exit codes
// are the Docker CLI's own.
var mounted = []string{
	"run", "create", "start", "stop", "restart", "kill", "rm", "ps", "logs", "attach", "wait", "exec", "inspect",
	"pause", "unpause", "rename", "top", "port", "events", "stats", "cp", "diff", "commit", "export", "update",
	"images", "tag", "rmi", "pull", "push", "import", "save", "load", "history", "login", "logout", "info", "version",
	"container", "image", "network", "volume", "system", "builder", "context", "search",
}

// extended are those of them that the engine adds to.
var extended = []string{"pull", "push", "history", "system"}

// MountDocker adds them to root. The daemon is started before the first of them runs.
func MountDocker(root *cobra.Command, at *Place) { mount(root, at, mounted) }

func mount(root *cobra.Command, at *Place, verbs []string) {
	docker, err := command.NewDockerCli(command.WithStandardStreams())
	if err != nil {
		return // it fails for unknown options only
	}
	all := &cobra.Command{Use: "docker"}
	commands.AddCommands(all, docker)
	for _, cmd := range all.Commands() {
		if !slices.Contains(verbs, cmd.Name()) {
			continue
		}
		all.RemoveCommand(cmd)
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
