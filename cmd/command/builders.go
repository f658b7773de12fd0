package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	buildx "github.com/docker/buildx/commands"
	_ "github.com/docker/buildx/driver/remote" // other machines' builders
	remoteutil "github.com/docker/buildx/driver/remote/util"
	"github.com/docker/buildx/store/storeutil"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/connhelper/commandconn"
	"github.com/moby/buildkit/client/connhelper"
	"github.com/moby/buildkit/client/connhelper/ssh"
	"github.com/spf13/cobra"
)

// remoteDriver is the name of buildx's driver for builders that run already, on this or another machine.
const remoteDriver = "remote"

// builderVerbs are buildx's commands for builders, which are those of `builder`, too.
var builderVerbs = []string{"create", "inspect", "ls", "rm", "use"}

// mountBuilders adds them to docker's builder command.
func mountBuilders(root *cobra.Command, at *place, docker *command.DockerCli) {
	connhelper.Register("ssh", overSSH)
	to := child(root, "builder")
	to.Short = "Manage builders, and their caches"
	bx := buildx.NewRootCmd("buildx", false, docker)
	for _, name := range builderVerbs {
		cmd := child(bx, name)
		bx.RemoveCommand(cmd)
		cmd.Annotations = nil
		cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return initBuildx(cmd, docker, at) }
		if name == "create" {
			cmd.Example = `  gantry builder create --name pi ssh://root@pi
  gantry builder create --name farm --append --platform linux/arm/v7 \
      --driver-opt cacert=/etc/farm/ca.pem,cert=/etc/farm/cert.pem,key=/etc/farm/key.pem tcp://pi:1234
  gantry build --builder pi -t app --load .`
		}
		to.AddCommand(cmd)
	}
}

// chooseBuilder has a command use the builder that it names, or that the environment does, or that was last chosen by `use`, if that is
// another machine's; else the daemon of this place.
func chooseBuilder(cmd *cobra.Command, docker *command.DockerCli) error {
	flag := cmd.Flag("builder")
	if flag == nil || flag.Changed || os.Getenv("BUILDX_BUILDER") != "" {
		return nil
	}
	name := "default" // of docker's own context
	txn, release, err := storeutil.GetStore(docker)
	if err != nil {
		return err
	}
	defer release()
	if current, err := storeutil.GetCurrentInstance(txn, docker); err == nil && current.Driver == remoteDriver {
		name = current.Name
	}
	return flag.Value.Set(name)
}

// explainSilence names the builder that a command has waited for in vain.
func explainSilence(cmd *cobra.Command, err error) error {
	flag := cmd.Flag("builder")
	if flag == nil || flag.Value.String() == "default" || !errors.Is(err, context.DeadlineExceeded) || cmd.Context().Err() != nil {
		return err
	}
	return fmt.Errorf("builder %s does not answer; see gantry builder inspect %[1]s, or choose another one with --builder or "+
		"gantry builder use default: %w", flag.Value, err)
}

// elsewhere tells whether an endpoint is another builder's than the daemon's of this place.
func (p *place) elsewhere(endpoint string) bool {
	return remoteutil.IsValidEndpoint(endpoint) == nil && endpoint != "unix://"+p.Socket()
}

// quoted is a word for a shell.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// overSSH reaches gantry's daemon on another machine, or else buildkitd (buildkit, client/connhelper/ssh, v0.34.2, knows only that).
func overSSH(u *url.URL) (*connhelper.ConnectionHelper, error) {
	spec, err := ssh.SpecFromURL(u)
	if err != nil {
		return nil, err
	}
	var args []string
	if spec.User != "" {
		args = append(args, "-l", spec.User)
	}
	if spec.Port != "" {
		args = append(args, "-p", spec.Port)
	}
	gantry, buildctl := "gantry", "buildctl"
	if spec.Socket != "" {
		gantry, buildctl = gantry+" --socket "+quoted(spec.Socket), buildctl+" --addr "+quoted("unix://"+spec.Socket)
	}
	args = append(args, "--", spec.Host, "if command -v gantry > /dev/null; then exec "+gantry+" system dial-stdio; else exec "+buildctl+
		" dial-stdio; fi")
	return &connhelper.ConnectionHelper{
		// The process goes on when the dial is over.
		ContextDialer: func(ctx context.Context, _ string) (net.Conn, error) {
			return commandconn.New(context.WithoutCancel(ctx), "ssh", slices.Clone(args)...)
		},
	}, nil
}
