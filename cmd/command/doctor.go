package command

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/internal/check"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/registry"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/network"
)

func doctorCommand(at *place) *cobra.Command {
	return &cobra.Command{
		Use:     "doctor",
		GroupID: "host",
		Short:   "Check whether this machine has what gantry needs; exit code 1 when something is to be mended",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := at.examine(cmd.Context())
			if err != nil {
				return err
			}
			if !printFindings(cmd.OutOrStdout(), all) {
				return cli.StatusError{StatusCode: 1}
			}
			return nil
		},
	}
}

// printFindings tells whether all is well.
func printFindings(out io.Writer, all []check.Finding) bool {
	well := true
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, f := range all {
		state, text := "ok", f.Text
		if f.Next != "" {
			state, text, well = "mend", f.Text+"; "+f.Next, false
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", state, f.Subject, text)
	}
	_ = w.Flush()
	return well
}

// examine looks at everything that gantry depends on. All that it leaves is the emulators, unpacked in the data root.
func (p *place) examine(ctx context.Context) ([]check.Finding, error) {
	if err := needRoot().Error(); err != nil {
		return nil, err
	}
	cfg, err := loadConfig(p)
	if err != nil {
		return nil, err
	}
	bridge, table := p.networkNames()
	all := []check.Finding{checkKernel(qemu.Release()), runner.CheckCgroups(), cache.CheckOverlay(existing(p.Root())), checkDisk(p.Root())}
	all = append(all, p.checkEmulation(ctx, cfg.emulation))
	all = append(all, network.Check(network.Options{Name: bridge, Table: table})...)
	return append(all, checkClock(time.Now()), checkPort(registry.DefaultAddr), p.checkDaemon(ctx)), nil
}

// needRoot is said by the daemon as well.
func needRoot() check.Finding {
	if os.Getuid() != 0 {
		return check.Finding{Subject: "user", Text: "gantry needs root (it mounts, and makes namespaces)",
			Next: "run it as root (sudo gantry ...)"}
	}
	return check.OK("user", "root")
}

// oldest is the first kernel with all system calls that the rooms use (fsopen, pidfd_open, clone3).
const oldestMajor, oldestMinor = 5, 10

func checkKernel(release string) check.Finding {
	if !qemu.AtLeast(release, oldestMajor, oldestMinor) {
		return check.Finding{Subject: "kernel", Text: "Linux " + release + " is too old",
			Next: fmt.Sprintf("take %d.%d or newer", oldestMajor, oldestMinor)}
	}
	return check.OK("kernel", "Linux "+release)
}

// checkEmulation is what `emulators ls` would say of the emulators that this program carries.
func (p *place) checkEmulation(ctx context.Context, policy qemu.Policy) check.Finding {
	const subject = "emulation"
	if policy == qemu.Off {
		return check.OK(subject, "off, as the configuration says")
	}
	m, err := qemu.Start(ctx, p.emulation(policy, quiet(io.Discard)))
	if err != nil {
		return check.Finding{Subject: subject, Text: err.Error(), Next: "see gantry emulators ls"}
	}
	defer m.Close()
	var can []string
	for _, w := range ways(m) {
		if w.Mode == string(qemu.Emulated) {
			can = append(can, w.Platform+" "+w.Registered)
		}
	}
	for _, refused := range m.Refusals() {
		return check.Finding{Subject: subject, Text: refused.Platform.Architecture + ": " + refused.Reason, Next: refused.Next}
	}
	if len(can) == 0 {
		return check.OK(subject, "none: no emulator is carried, or could be unpacked in "+p.Root())
	}
	return check.OK(subject, strings.Join(can, ", "))
}

// roomToBuild is what one build of a usual base image takes.
const roomToBuild = 2 << 30

func checkDisk(root string) check.Finding {
	const subject = "disk"
	dir := existing(root)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return check.Finding{Subject: subject, Text: fmt.Sprintf("%s: %v", dir, err), Next: "choose another directory with --root"}
	}
	free := uint64(st.Bavail) * uint64(st.Bsize)
	text := fmt.Sprintf("%s free in %s", units.BytesSize(float64(free)), dir)
	switch {
	case free < roomToBuild:
		return check.Finding{Subject: subject, Text: text, Next: "run gantry prune, or choose another directory with --root"}
	case st.Files > 0 && st.Ffree < 100_000:
		return check.Finding{Subject: subject, Text: fmt.Sprintf("%s has only %d inodes left", dir, st.Ffree),
			Next: "run gantry prune, or choose another directory with --root"}
	}
	return check.OK(subject, text)
}

// checkClock: a machine without a battery starts in the past, and then no certificate is valid yet.
func checkClock(now time.Time) check.Finding {
	const subject = "clock"
	text := now.UTC().Format("2006-01-02 15:04:05 UTC")
	if now.Before(time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)) {
		return check.Finding{Subject: subject, Text: text + " is in the past, when no certificate is valid yet",
			Next: "run: timedatectl set-ntp true"}
	}
	return check.OK(subject, text)
}

func checkPort(addr string) check.Finding {
	const subject = "registry's port"
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return check.OK(subject, addr+" is taken; gantry registry serve --addr takes another")
	}
	l.Close()
	return check.OK(subject, addr+" is free")
}

func (p *place) checkDaemon(ctx context.Context) check.Finding {
	const subject = "daemon"
	if !p.Answers() {
		return check.OK(subject, "none at "+p.Socket()+"; any command starts one")
	}
	s, err := p.status(ctx)
	if err != nil {
		return check.Finding{Subject: subject, Text: fmt.Sprintf("%s: %v", p.Socket(), err), Next: "see " + p.LogFile()}
	}
	if s.Version != thin.Version {
		return check.Finding{
			Subject: subject, Text: fmt.Sprintf("at %s is of version %s, this command of %s", p.Socket(), s.Version, thin.Version),
			Next: "run: gantry daemon stop (containers go on, and the next command starts the new one)",
		}
	}
	return check.OK(subject, fmt.Sprintf("answers at %s, %d containers run", p.Socket(), s.Containers))
}
