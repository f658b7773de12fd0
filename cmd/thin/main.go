// Package thin is the light half of the command line: which daemon a command talks to, how one is
// started, and the Docker CLI's verbs. It imports no room, as everything that a program links costs its start,
// whether it is used or not; what it can't do itself, the engine does (cmd/engine), in its place.
package thin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/cmd/ui"
	"github.com/gantry-build/gantry/internal/memfile"
)

// Version is gantry's own; the Makefile sets it at link time.
var Version = "0.1.0-dev"

// groupRun is the group of the Docker CLI's verbs in the help.
const groupRun = "run"

// Root is the command without verbs.
func Root(at *Place) *cobra.Command {
	root := &cobra.Command{
		Use:   "gantry",
		Short: "Build, ship and run images for every architecture",
		Long: "gantry takes a Dockerfile to a running, mixed-architecture cluster: build, registry and runtime in " +
			"one program.",
		Version:                    Version,
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		Args:                       cobra.ArbitraryArgs,
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return cli.StatusError{StatusCode: 125, Status: fmt.Sprintf("%v\n\nRun '%s --help' for more information", err, cmd.CommandPath())}
	})
	at.Flags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: "build", Title: "Build and ship:"},
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: "host", Title: "This machine:"},
	)
	return root
}

// EngineName is the name of the engine's program, as users see it among the processes.
const EngineName = "gantry"

// Engine is what a thin client carries: both give a program to execute.
type Engine struct {
	Unpack func(root string) (path string, err error) // below a data root
	Load   func() (*os.File, error)                   // in memory, where nothing can be written
}

// Main does what args ask for, or becomes the engine for it, and returns the process's exit code.
func Main(args []string, engine Engine) int {
	at := &Place{unpack: engine.Unpack}
	root := Root(at)
	mount(root, at, slices.DeleteFunc(slices.Clone(mounted), func(v string) bool { return slices.Contains(extended, v) }))
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() } // --version needs one
	cmd, _, err := root.Find(args)
	if version := len(args) == 1 && (args[0] == "--version" || args[0] == "-v"); err == nil && (version || cmd != root) {
		return Run(root, args, Report)
	}
	_ = root.ParseFlags(args) // for --root; whatever else is wrong, the engine says
	return Report(os.Stderr, become(at, engine, append([]string{os.Args[0]}, args...)))
}

// become replaces this process by the engine. Help can be had without a data root to write to.
func become(at *Place, engine Engine, argv []string) error {
	path, err := at.engine()
	if err != nil { // what needs the data root will say so itself
		if f, lerr := engine.Load(); lerr == nil {
			path, err = memfile.Path(f), nil
			defer runtime.KeepAlive(f)
		}
	}
	if err == nil {
		err = syscall.Exec(path, argv, os.Environ())
	}
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("starting %s: %w; is it on a file system mounted noexec? choose another data root with --root", path, err)
	}
	return fmt.Errorf("starting gantry: %w", err)
}

// signalled is the cause of a context that a signal ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "stopped by signal " + s.Signal.String() }

// Run runs one command and returns the process's exit code. report prints what went wrong, and says which
// code that is.
func Run(root *cobra.Command, args []string, report func(w io.Writer, err error) int) int {
	ctx, stop := signalContext()
	defer stop()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var cause signalled
	if errors.As(context.Cause(ctx), &cause) { // whatever a cancelled command makes of it
		ui.Error(os.Stderr, cause)
		return 128 + int(cause.Signal)
	}
	return report(os.Stderr, err)
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

// Report prints err as the output law says and returns the exit code that Docker would.
func Report(w io.Writer, err error) int {
	var status cli.StatusError
	if errors.As(err, &status) && status.StatusCode != 0 {
		if msg := status.Error(); msg != "" {
			ui.Error(w, status)
		}
		return status.StatusCode
	}
	ui.Error(w, err)
	return 1
}
