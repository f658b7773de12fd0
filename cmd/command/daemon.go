package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/qemu"
)

type daemonOptions struct {
	auto bool          // started by a CLI: tells it how the start went, and ends when idle
	idle time.Duration // how long nothing has to happen for that

	emulation string // "" is what the configuration says

	labels, resources []string // beside those of the configuration
	metrics           string
}

func daemonCommand(at *place) *cobra.Command {
	o := daemonOptions{}
	cmd := &cobra.Command{
		Use:     "daemon [OPTIONS]",
		GroupID: "host",
		Short:   "Run the daemon in the foreground; any other command starts one when none runs",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), at, o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.auto, "auto", false, "")
	_ = f.MarkHidden("auto")
	f.DurationVar(&o.idle, "idle", idleDefault(), "how long a daemon that a command has started stays with nothing to do (env GANTRY_IDLE)")
	f.StringVar(&o.emulation, "emulation", "", "where emulators may be registered: auto, private or off (default: what the configuration "+
		"file says, or auto)")
	f.StringArrayVar(&o.labels, "label", nil, "label of this machine, KEY=VALUE, as constraints on engine.labels find it")
	f.StringArrayVar(&o.resources, "node-generic-resource", nil, "resource that services can reserve here, as GPU=2 or GPU=uuid1")
	f.StringVar(&o.metrics, "metrics-addr", "", "address at which /metrics is served, HOST:PORT")
	cmd.AddCommand(daemonStatus(at), daemonStop(at))
	return cmd
}

func idleDefault() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("GANTRY_IDLE")); err == nil && d > 0 {
		return d
	}
	return 10 * time.Minute
}

// runDaemon is the daemon's life. An auto-started one reports to its starter on file descriptor 3.
func runDaemon(ctx context.Context, at *place, o daemonOptions) (err error) {
	tell := io.Writer(io.Discard)
	if o.auto {
		pipe := os.NewFile(3, "starter")
		defer pipe.Close()
		tell = pipe
	}
	ready := false
	defer func() {
		if err != nil && !ready {
			fmt.Fprint(tell, err)
		}
	}()
	if err := leaveChroot(); err != nil {
		return err
	}
	if err := at.CheckRoot(); err != nil {
		return err
	}
	unix.Umask(0) // files in images have the modes that builds give them, whoever started the daemon
	cfg, err := loadConfig(at)
	if err != nil {
		return err
	}
	if o.emulation != "" {
		if cfg.emulation, err = qemu.ParsePolicy(o.emulation); err != nil {
			return fmt.Errorf("--%w", err)
		}
	}
	if err := cfg.describe(o.labels, o.resources, o.metrics); err != nil {
		return err
	}
	log, err := daemonLog(at, cfg.Config, o.auto)
	if err != nil {
		return err
	}
	if o.auto {
		unix.CloseOnExec(3)
	}
	begin := time.Now()
	d, err := openDaemon(ctx, at, cfg, log)
	if err != nil {
		return err
	}
	defer d.Close()
	fmt.Fprint(tell, thin.ReadyWord)
	if c, ok := tell.(io.Closer); ok {
		c.Close() // the starter waits for the end of the stream
	}
	ready = true
	if _, err := systemd.SdNotify(true, systemd.SdNotifyReady); err != nil {
		log.Warn("systemd can't be told that the daemon is ready", "error", err)
	}
	log.Info("ready", "socket", at.Socket(), "root", at.Root(), "version", thin.Version, "took", time.Since(begin).Round(time.Millisecond))
	if !o.auto {
		o.idle = 0
	}
	cause := d.wait(ctx, o.idle)
	log.Info("stopping", "cause", cause)
	if cause == causeIdle {
		return markIdle(at)
	}
	return nil
}

// daemonLog writes to stderr, or to a file below the data root when a CLI is the parent.
func daemonLog(at *place, cfg *config.Config, toFile bool) (*slog.Logger, error) {
	level, err := logLevel(cfg)
	if err != nil {
		return nil, err
	}
	if at.Debug() {
		level = slog.LevelDebug
	}
	var w io.Writer = os.Stderr
	if toFile {
		if err := os.MkdirAll(at.Root(), 0o711); err != nil {
			return nil, fmt.Errorf("data root: %w%s", err, thin.AsRoot())
		}
		f, err := os.OpenFile(at.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		// A crash of the runtime prints on the file descriptors, not through slog.
		if err := unix.Dup2(int(f.Fd()), 2); err != nil {
			return nil, err
		}
		w = f
	}
	o := &slog.HandlerOptions{Level: level}
	log := slog.New(slog.NewTextHandler(w, o))
	if cfg.Log.Format == "json" {
		log = slog.New(slog.NewJSONHandler(w, o))
	}
	slog.SetDefault(log)
	routeLogrus(log, level == slog.LevelDebug)
	return log, nil
}

// status is what GET /gantry/status answers.
type status struct {
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Root       string    `json:"root"`
	Socket     string    `json:"socket"`
	Since      time.Time `json:"since"`
	Containers int       `json:"containers"` // running
	Platforms  []string  `json:"platforms"`
	Ways       []way     `json:"ways"`
}

func daemonStatus(at *place) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the daemon runs; exit code 1 when it does not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := at.status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintf(w, "PID\t%d\nVersion\t%s\nRoot\t%s\nSocket\t%s\nUp for\t%s\nRunning containers\t%d\nPlatforms\t%s\n",
				s.PID, s.Version, s.Root, s.Socket, time.Since(s.Since).Round(time.Second), s.Containers, strings.Join(s.Platforms, ", "))
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func daemonStop(at *place) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon; running containers stay",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := at.status(cmd.Context())
			if errors.Is(err, thin.ErrNoDaemon) {
				return nil
			}
			if err != nil {
				return err
			}
			return at.stop(cmd.Context(), s)
		},
	}
}

func (p *place) status(ctx context.Context) (status, error) {
	var s status
	if !p.Answers() {
		return s, fmt.Errorf("%w at %s", thin.ErrNoDaemon, p.Socket())
	}
	err := p.call(ctx, http.MethodGet, "/gantry/status", &s)
	return s, err
}

// call asks the daemon over its socket and decodes the answer into v.
func (p *place) call(ctx context.Context, method, path string, v any) error {
	resp, err := p.ask(ctx, method, path, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

// ask asks the daemon over its socket. An answer that is an error is one.
func (p *place) ask(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	c := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.Socket())
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://gantry"+path, body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<14))
	var said struct{ Message string }
	if json.Unmarshal(b, &said) == nil && said.Message != "" {
		return nil, errors.New(said.Message)
	}
	return nil, fmt.Errorf("the daemon answered %s: %s", resp.Status, b)
}

// gone waits until the data root is free again, and the process has gone with all that it has open.
func (p *place) gone(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second,
		fmt.Errorf("the daemon (pid %d) has not ended after 20s; see %s", pid, p.LogFile()))
	defer cancel()
	if err := state.Unlocked(ctx, filepath.Join(p.Root(), "lock")); err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Second); unix.Kill(pid, 0) == nil && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond) // it may be in another process namespace, where the number is another's
	}
	return nil
}
