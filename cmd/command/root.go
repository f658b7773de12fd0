// Package command is the command line: one file per verb, the mounting of the Docker CLI's verbs,
// and wire.go, the only place that builds a daemon out of the rooms.
package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/docker/buildx/util/cobrautil"
	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/cmd/ui"
)

// Version is gantry's own; the Makefile sets it at link time.
var Version = "0.1.0-dev"

// signalled is the cause of a context that a signal ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "stopped by signal " + s.Signal.String() }

// Main runs one command and returns the process's exit code.
func Main(args []string) int {
	ctx, stop := signalContext()
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return report(ctx, err)
}

func signalContext() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		s := <-ch
		cancel(signalled{s.(syscall.Signal)})
		<-ch // a second one means now
		os.Exit(128 + int(s.(syscall.Signal)))
	}()
	return ctx, func() { signal.Stop(ch); cancel(nil) }
}

// report prints err as the output law says and returns the exit code that Docker would.
func report(ctx context.Context, err error) int {
	var cause signalled
	if errors.As(context.Cause(ctx), &cause) { // whatever a cancelled command makes of it
		ui.Error(os.Stderr, cause)
		return 128 + int(cause.Signal)
	}
	var status cli.StatusError
	if errors.As(err, &status) && status.StatusCode != 0 {
		if msg := status.Error(); msg != "" {
			ui.Error(os.Stderr, status)
		}
		return status.StatusCode
	}
	var code cobrautil.ExitCodeError
	if errors.As(err, &code) { // what went wrong was the command's output
		return int(code)
	}
	ui.Error(os.Stderr, err)
	return 1
}

func newRoot() *cobra.Command {
	at := &place{}
	root := &cobra.Command{
		Use:                        "gantry",
		Short:                      "Build, ship and run images for every architecture",
		Long:                       "gantry takes a Dockerfile to a running, mixed-architecture cluster: build, registry and runtime in one program.",
		Version:                    Version,
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		Args:                       cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknown(cmd, args[0])
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return cli.StatusError{StatusCode: 125, Status: fmt.Sprintf("%v\n\nRun '%s --help' for more information", err, cmd.CommandPath())}
	})
	at.flags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: "build", Title: "Build and ship:"},
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "host", Title: "This machine:"},
	)
	root.AddCommand(registryCommand(at), daemonCommand(at), emulatorsCommand(at), doctorCommand(at), debugCommand(at))
	mountDocker(root, at)
	mountBuildx(root, at)
	return root
}

func unknown(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("unknown command: gantry %s", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(msg + "; gantry --help lists the commands")
}
