package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/qemu"
)

func emulatorsCommand(at *place) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "emulators",
		GroupID: "host",
		Short:   "Show and use the emulators for foreign platforms",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(emulatorsList(at), emulatorsExec(at))
	return cmd
}

func emulatorsList(at *place) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the platforms that this machine can run, and how",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := at.ways(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "PLATFORM\tMODE\tEMULATOR\tVERSION\tREGISTERED")
			for _, a := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.Platform, a.Mode, a.Emulator, a.Version, a.Registered)
			}
			return w.Flush()
		},
	}
}

func emulatorsExec(at *place) *cobra.Command {
	return &cobra.Command{
		Use:   "exec [--] COMMAND [ARG...]",
		Short: "Run a command in a namespace where foreign programs run, without registering anything on the host",
		Example: `  gantry emulators exec -- mmdebstrap --architectures=armhf bookworm rootfs.tar
  gantry emulators exec -- ./program-for-arm64`,
		Args:                  cobra.MinimumNArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(at)
			if err != nil {
				return err
			}
			code, err := qemu.ExecEmulated(cmd.Context(), at.emulation(cfg.emulation, quiet(cmd.ErrOrStderr())), args)
			if err == nil && code != 0 {
				err = cli.StatusError{StatusCode: code, Cause: errors.New("")}
			}
			return err
		},
	}
}

// quiet is the log of a command: warnings only.
func quiet(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// way is how a platform runs here, as users see it.
type way struct {
	Platform   string `json:"platform"`
	Mode       string `json:"mode"`
	Emulator   string `json:"emulator,omitempty"`
	Version    string `json:"version,omitempty"`
	Registered string `json:"registered,omitempty"` // where the emulator is, and for whom
}

// ways are all platforms that run on a machine.
func ways(m *qemu.Machine) []way {
	var all []way
	for _, p := range m.Platforms() {
		w, err := m.Way(p)
		if err != nil {
			continue // it is one of those that run
		}
		a := way{Platform: platforms.Format(p), Mode: string(w.Mode), Emulator: w.Emulator, Version: w.Version}
		switch {
		case w.Shared():
			a.Registered = "for the whole machine, while gantry needs it (" + w.Entry + ")"
		case w.Entry != "":
			a.Registered = "for the whole machine, by others (" + w.Entry + ")"
		case w.Mode == qemu.Emulated:
			a.Registered = "for gantry alone"
		}
		all = append(all, a)
	}
	return all
}

// ways asks the daemon, or, when none runs, finds out what one would answer.
func (p *place) ways(ctx context.Context) ([]way, error) {
	s, err := p.status(ctx)
	if err == nil || !errors.Is(err, thin.ErrNoDaemon) {
		return s.Ways, err
	}
	cfg, err := loadConfig(p)
	if err != nil {
		return nil, err
	}
	m, err := qemu.Start(ctx, p.emulation(cfg.emulation, nil))
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return ways(m), nil
}

// emulation is what the machine may use; emulators that are not carried are refused later, by name.
func (p *place) emulation(policy qemu.Policy, log *slog.Logger) qemu.Options {
	return qemu.Options{Emulators: carriedEmulators(filepath.Join(p.Root(), "bin")), Policy: policy, Owner: p.Mark(),
		Mount: filepath.Join(p.State(), "binfmt_misc"), Log: log}
}
