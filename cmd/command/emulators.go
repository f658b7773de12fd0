package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

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
			m, err := qemu.Start(cmd.Context(), at.emulation())
			if err != nil {
				return err
			}
			defer m.Close()
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "PLATFORM\tMODE\tEMULATOR\tVERSION")
			for _, p := range m.Platforms() {
				way, err := m.Way(p)
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", platforms.Format(p), way.Mode, way.Emulator, way.Version)
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
			code, err := qemu.ExecEmulated(cmd.Context(), at.emulation(), args)
			if err == nil && code != 0 {
				err = cli.StatusError{StatusCode: code, Cause: errors.New("")}
			}
			return err
		},
	}
}

// emulation is where the emulators come from; those that are not carried are refused later, by name.
func (p *place) emulation() qemu.Options {
	return qemu.Options{Emulators: carriedEmulators(filepath.Join(p.Root(), "bin"))}
}
