package command

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/buildx/build"
	"github.com/docker/buildx/util/buildflags"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/streams"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-build/gantry/solver/debug"
	"github.com/gantry-build/gantry/solver/explain"
)

// debugOptions are what the process in a failed step's place gets besides what the step had.
type debugOptions struct {
	secrets, ssh []string
}

func debugCommand(at *place) *cobra.Command {
	o := &debugOptions{}
	cmd := &cobra.Command{
		Use:     "debug [OPTIONS] [BUILD|STEP [COMMAND [ARG...]]]",
		GroupID: "build",
		Short:   "Open a shell in a failed build step",
		Long: `Opens a shell, or runs COMMAND, in a build step that has failed, as it left its file system: with its
mounts, environment, user, network and architecture. Without an argument it is the last step that
failed. What is changed there is gone afterwards, except in cache mounts. Failed steps are kept for
an hour, until the build cache is pruned, or until the daemon stops.

The step's secrets and SSH agents are there only where --secret and --ssh provide them anew.`,
		Example: `  gantry debug
  gantry debug pz2x make V=1
  gantry debug --secret id=token,src=token.txt`,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			var id string
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				id, args = args[0], args[1:]
			}
			return o.run(cmd.Context(), at, id, args)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringArrayVar(&o.secrets, "secret", nil, `Secret to provide, as in build (format: "id=mysecret[,src=/local/secret]")`)
	f.StringArrayVar(&o.ssh, "ssh", nil,
		`SSH agent socket or keys to provide, as in build (format: "default|<id>[=<socket>|<key>[,<key>]]")`)
	cmd.AddCommand(debugList(at))
	return cmd
}

func debugList(at *place) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the failed steps that are kept",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			steps, err := at.failed(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "STEP ID\tBUILD ID\tSTEP\tPLATFORM\tEXIT\tFAILED")
			for _, s := range steps {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s ago\n",
					short(s.ID), short(strings.Join(s.Builds, ",")), oneLine(s.Name), s.Platform, s.Exit,
					units.HumanDuration(time.Since(s.Time)))
			}
			return w.Flush()
		},
	}
}

func short(id string) string { return id[:min(len(id), 12)] }

// oneLine shortens the name of a step to what fits into a table.
func oneLine(name string) string { return explain.OneLine(name, 50) }

// failed asks the daemon for the kept steps, the newest first.
func (p *place) failed(ctx context.Context) (steps []debug.Step, err error) {
	if !p.Answers() {
		return nil, nil // they end with the daemon
	}
	return steps, p.call(ctx, http.MethodGet, "/gantry/failed", &steps)
}

// choose finds the step that a user means: the newest one of the build or with the ID that begins so.
func choose(steps []debug.Step, id string) (debug.Step, error) {
	for _, s := range steps {
		for _, name := range append([]string{s.ID}, s.Builds...) {
			if strings.HasPrefix(name, id) {
				return s, nil
			}
		}
	}
	if id == "" {
		return debug.Step{}, fmt.Errorf("no failed step is kept; a build that fails leaves one, for an hour")
	}
	return debug.Step{}, fmt.Errorf("no failed step of build %s is kept; gantry debug ls lists those that are", id)
}

// offerDebug tells how to look into the step that has made one of the builds fail, if one has.
func (p *place) offerDebug(ctx context.Context, builds []string) {
	steps, err := p.failed(ctx)
	if err != nil {
		return // the build's own error is what matters
	}
	for _, s := range steps {
		for _, ref := range s.Builds {
			if slices.Contains(builds, ref) {
				fmt.Fprintf(os.Stderr, "gantry: the step is kept for an hour; this opens a shell in it: gantry debug %s\n", short(ref))
				return
			}
		}
	}
}

func (o *debugOptions) run(ctx context.Context, at *place, id string, args []string) error {
	steps, err := at.failed(ctx)
	if err != nil {
		return err
	}
	step, err := choose(steps, id)
	if err != nil {
		return err
	}
	in, out := streams.NewIn(os.Stdin), streams.NewOut(os.Stdout)
	sh := debug.Shell{Args: args, Tty: in.IsTerminal() && out.IsTerminal(), Stdin: in, Stdout: stays{out}, Stderr: stays{os.Stderr}}
	serve, err := o.serve(ctx, at, &sh)
	if err != nil {
		return err
	}
	defer serve()
	o.announce(step, sh)
	conn, err := grpc.NewClient("passthrough:///gantry", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStreamInterceptor(grpcerrors.StreamClientInterceptor),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", at.Socket())
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	if sh.Tty {
		resize, stop := sizes(out)
		defer stop()
		sh.Resize, sh.Env = resize, []string{"TERM=" + os.Getenv("TERM")}
		if err := in.SetRawTerminal(); err != nil {
			return err
		}
		defer in.RestoreTerminal()
	}
	exit, err := debug.Open(ctx, conn, step.ID, sh)
	if err == nil && exit != 0 {
		return cli.StatusError{StatusCode: exit}
	}
	return err
}

// announce tells, before a terminal is the shell's, where one is.
func (o *debugOptions) announce(step debug.Step, sh debug.Shell) {
	if !sh.Tty {
		return
	}
	fmt.Fprintf(os.Stderr, "gantry: in %s, %s, which ended with exit code %d\n", oneLine(step.Name), step.Platform, step.Exit)
	if len(step.Secrets) > 0 && len(o.secrets) == 0 {
		fmt.Fprintf(os.Stderr, "gantry: its secrets are not here: %s; provide them with --secret\n", strings.Join(step.Secrets, ", "))
	}
	if len(step.SSH) > 0 && len(o.ssh) == 0 {
		fmt.Fprintf(os.Stderr, "gantry: its SSH agents are not here: %s; provide them with --ssh\n", strings.Join(step.SSH, ", "))
	}
}

// serve offers secrets and agents to the daemon until the returned function is called.
func (o *debugOptions) serve(ctx context.Context, at *place, sh *debug.Shell) (end func(), err error) {
	if len(o.secrets)+len(o.ssh) == 0 {
		return func() {}, nil
	}
	secretSpecs, err := buildflags.ParseSecretSpecs(o.secrets)
	if err != nil {
		return nil, fmt.Errorf("--secret: %w", err)
	}
	sshSpecs, err := buildflags.ParseSSHSpecs(o.ssh)
	if err != nil {
		return nil, fmt.Errorf("--ssh: %w", err)
	}
	secrets, err := build.CreateSecrets(secretSpecs)
	if err != nil {
		return nil, fmt.Errorf("--secret: %w", err)
	}
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return nil, err
	}
	s.Allow(secrets)
	if len(sshSpecs) > 0 {
		agents, err := build.CreateSSH(sshSpecs)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		s.Allow(agents)
	}
	engine, err := at.API()
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(ctx, func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/session", proto, meta)
		})
	}()
	sh.Session = s.ID()
	return func() {
		s.Close()
		<-ended
	}, nil
}

// sizes are the terminal's, now and whenever it changes.
func sizes(out *streams.Out) (<-chan debug.Size, func()) {
	ch := make(chan debug.Size, 1)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	changed <- syscall.SIGWINCH
	go func() {
		for range changed {
			rows, cols := out.GetTtySize()
			select {
			case <-ch: // an older size that no one has taken
			default:
			}
			ch <- debug.Size{Rows: uint32(rows), Cols: uint32(cols)}
		}
	}()
	return ch, func() {
		signal.Stop(changed)
		close(changed)
	}
}

// stays is a stream of this process, which is not a shell's to close.
type stays struct{ io.Writer }

func (stays) Close() error { return nil }
