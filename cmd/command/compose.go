package command

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	buildx "github.com/docker/buildx/version"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli/command"
	cliflags "github.com/docker/cli/cli/flags"
	compose "github.com/docker/compose/v5/cmd/compose"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/compose/v5/pkg/api"
	engine "github.com/docker/compose/v5/pkg/compose"
	"github.com/spf13/cobra"
)

// mountCompose adds Compose's command tree. Its flags, output and exit codes are those of docker's plugin; it talks to the
// daemon of this place, and builds by it.
func mountCompose(root *cobra.Command, at *place) {
	docker, err := command.NewDockerCli(command.WithStandardStreams(), command.WithUserAgent("compose/"+api.ComposeVersion))
	if err != nil {
		return // it fails for unknown options only
	}
	cmd := compose.RootCommand(docker, &compose.BackendOptions{Options: []engine.Option{
		engine.WithPrompt(prompt.NewPrompt(docker.In(), docker.Out()).Confirm),
	}})
	cmd.GroupID = "run"
	cmd.Short = "Define and run applications of several containers, from a Compose file"
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return cli.StatusError{StatusCode: 1, Status: err.Error()}
	})
	prepare := cmd.PersistentPreRunE
	cmd.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if err := initCompose(cmd, docker, at); err != nil {
			return err
		}
		return prepare(cmd, args)
	}
	locateErrors(cmd, cmd.Flags())
	root.AddCommand(cmd)
}

// offline are the commands that only read files, or nothing.
var offline = []string{"config", "version"}

// initCompose connects to the daemon, has builds find this program as docker's plugin buildx, and leaves signals to Compose,
// which stops an application at the first.
func initCompose(cmd *cobra.Command, docker *command.DockerCli, at *place) error {
	signal.Reset()
	go leaveAtThird(docker)
	cmd.SetContext(context.WithoutCancel(cmd.Context()))
	if !slices.Contains(offline, cmd.Name()) {
		if err := at.Connect(cmd.Context()); err != nil {
			return err
		}
	}
	return at.connectCompose(docker)
}

// connectCompose has Compose talk to this place's daemon.
func (p *place) connectCompose(docker *command.DockerCli) error {
	opts := cliflags.NewClientOptions()
	opts.Hosts = []string{"unix://" + p.Socket()}
	if err := docker.Initialize(opts); err != nil {
		return err
	}
	plugins, err := p.plugins()
	if err != nil {
		return err
	}
	cfg := docker.ConfigFile()
	cfg.CLIPluginsExtraDirs = append([]string{plugins}, cfg.CLIPluginsExtraDirs...)
	for k, v := range map[string]string{"GANTRY_ROOT": p.Root(), "GANTRY_SOCKET": p.Socket(), "GANTRY_CONFIG": p.Config()} {
		if err := os.Setenv(k, v); err != nil { // for the plugin
			return err
		}
	}
	return nil
}

// leaveAtThird ends the program at the third signal to end, as docker does with its plugins (docker/cli, cmd/docker, v29).
func leaveAtThird(docker *command.DockerCli) {
	asked := make(chan os.Signal, 3)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	for range 3 {
		<-asked
	}
	fmt.Fprint(docker.Err(), "\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
	docker.In().RestoreTerminal()
	docker.Out().RestoreTerminal()
	os.Exit(1)
}

// buildxPlugin is the name by which docker and Compose call buildx.
const buildxPlugin = "docker-buildx"

// plugins is a directory with this program as docker's plugin buildx.
func (p *place) plugins() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(self, "/memfd:") {
		self = fmt.Sprintf("/proc/%d/exe", os.Getpid())
	}
	dir := filepath.Join(p.buildxDir(), "cli-plugins")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	_, err = linkTo(self, filepath.Join(dir, buildxPlugin))
	return dir, err
}

// asPlugin gives the arguments that a call as docker's plugin buildx stands for. done says that it was a question which is
// answered (docker/cli, cli-plugins/metadata, v29).
func asPlugin(name string, args []string) (_ []string, done bool) {
	if filepath.Base(name) != buildxPlugin {
		return args, false
	}
	if len(args) > 0 && args[0] == metadata.MetadataSubcommandName {
		answer := metadata.Metadata{
			SchemaVersion: "0.1.0", Vendor: "gantry", Version: buildx.Version,
			ShortDescription: "Build with BuildKit, by gantry",
		}
		return nil, json.NewEncoder(os.Stdout).Encode(answer) == nil
	}
	if len(args) > 0 && args[0] == "buildx" {
		return args, false
	}
	return append([]string{"buildx"}, args...), false
}
