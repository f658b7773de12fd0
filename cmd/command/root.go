// Package command is the engine's command line: one file per verb, and wire.go, the only place that
// builds a daemon out of the rooms. The Docker CLI's verbs, and which daemon a command talks to, are in
// cmd/thin.
package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/buildx/util/cobrautil"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/cmd/thin"
)

// Main runs one command and returns the process's exit code.
func Main(args []string) int {
	args, done := asPlugin(os.Args[0], args)
	if done {
		return 0
	}
	return thin.Run(Root(), args, report)
}

// Root is the whole command line.
func Root() *cobra.Command {
	at := &place{&thin.Place{}}
	root := thin.Root(at.Place)
	root.TraverseChildren = true // Compose's flags come before its verbs
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknown(cmd, args[0])
	}
	root.AddCommand(registryCommand(at), daemonCommand(at), emulatorsCommand(at), doctorCommand(at), debugCommand(at), manifestCommand(at),
		clusterCommand(at))
	thin.MountDocker(root, at.Place)
	extendSystem(child(root, "system"), at)
	extendService(child(root, "service"))
	extendStack(child(root, "stack"), at)
	for _, verb := range []string{"pull", "push"} {
		speakHTTP(child(root, verb), at)
	}
	mountBuildx(root, at)
	mountCompose(root, at)
	return root
}

// report prints err, after the lines of the Dockerfile that it is about.
func report(w io.Writer, err error) int {
	var code cobrautil.ExitCodeError
	if errors.As(err, &code) { // what went wrong was the command's output
		return int(code)
	}
	for _, s := range errdefs.Sources(err) {
		if s.Info == nil || len(s.Ranges) == 0 {
			continue
		}
		fmt.Fprintln(w)
		_ = s.Print(w)
		fmt.Fprintln(w)
		err = fmt.Errorf("%s:%d: %w", s.Info.Filename, s.Ranges[0].Start.Line, err)
		break
	}
	return thin.Report(w, err)
}

func unknown(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("unknown command: gantry %s", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(msg + "; gantry --help lists the commands")
}
