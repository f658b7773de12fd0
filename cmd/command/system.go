package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	moby "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/api"
	"github.com/gantry-build/gantry/solver"
)

// extendSystem adds to docker's system what is gantry's own.
func extendSystem(cmd *cobra.Command, at *place) {
	reset := systemReset(at)
	reset.PersistentPreRunE = func(*cobra.Command, []string) error { return nil } // it needs no daemon
	cmd.AddCommand(reset)
	df := child(cmd, "df")
	df.Short = "Show what takes the space of the disk"
	why := false
	df.Flags().BoolVar(&why, "why", false, "Say of each thing what keeps it, and what would take it away")
	run := df.RunE
	df.RunE = func(cmd *cobra.Command, args []string) error {
		if !why {
			return run(cmd, args)
		}
		return at.why(cmd.Context(), cmd.OutOrStdout())
	}
}

// why prints what holds what.
func (p *place) why(ctx context.Context, w io.Writer) error {
	var all api.Holders
	if err := p.call(ctx, http.MethodGet, "/gantry/disk", &all); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "TYPE\tNAME\tSIZE\tFREE WITHOUT IT\tKEPT BY")
	for _, h := range all.Holders {
		kept := strings.Join(h.KeptBy, ", ")
		if h.Free != "" {
			kept = strings.TrimPrefix(kept+"; ", "; ") + "nobody: " + h.Free
			if len(h.KeptBy) > 0 {
				kept = strings.Join(h.KeptBy, ", ") + "; the rest by nobody: " + h.Free
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", h.Kind, h.Name, units.HumanSize(float64(h.Bytes)), units.HumanSize(float64(h.Own)), kept)
	}
	fmt.Fprintf(t, "%s\t%s\t%s\t\t\n", "left", all.Root, units.HumanSize(float64(all.Free)))
	return t.Flush()
}

const resetWarning = `WARNING! This will remove, of the data root %s:
  - all containers, also those that run
  - all networks, and what they have on this machine
  - all volumes
  - all images, and the build cache
Are you sure you want to continue? [y/N] `

func systemReset(at *place) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "reset [OPTIONS]",
		Short: "Remove everything that gantry has made on this machine; its configuration stays",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				fmt.Fprintf(cmd.OutOrStdout(), resetWarning, at.Root())
				answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
					return errors.New("nothing was removed")
				}
			}
			return at.reset(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not prompt for confirmation")
	return cmd
}

// reset has the daemon take away what only it can, stops it, and removes what is left in the data root.
func (p *place) reset(ctx context.Context) error {
	if _, err := os.Stat(p.Root()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := p.Connect(ctx); err != nil {
		return err
	}
	api, err := p.API()
	if err != nil {
		return err
	}
	defer api.Close()
	if err := clearHost(ctx, api); err != nil {
		return err
	}
	s, err := p.status(ctx)
	if err != nil {
		return err
	}
	if err := p.stop(ctx, s); err != nil {
		return err
	}
	if err := solver.UnmountBelow(p.Root()); err != nil { // never delete through a mount
		return err
	}
	var errs []error
	for _, name := range inRoot {
		errs = append(errs, os.RemoveAll(filepath.Join(p.Root(), name)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(p.Root()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: what is in it is not gantry's", err)
	}
	return nil
}

// clearHost removes containers and networks.
func clearHost(ctx context.Context, api *moby.Client) error {
	containers, err := api.ContainerList(ctx, moby.ContainerListOptions{All: true})
	if err != nil {
		return err
	}
	for _, c := range containers.Items {
		if _, err := api.ContainerRemove(ctx, c.ID, moby.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			return err
		}
	}
	networks, err := api.NetworkList(ctx, moby.NetworkListOptions{Filters: moby.Filters{}.Add("type", "custom")})
	if err != nil {
		return err
	}
	for _, n := range networks.Items {
		if _, err := api.NetworkRemove(ctx, n.ID, moby.NetworkRemoveOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// stop ends the daemon, and returns when it has gone.
func (p *place) stop(ctx context.Context, s status) error {
	if err := p.call(ctx, http.MethodPost, "/gantry/stop", nil); err != nil {
		return err
	}
	return p.gone(ctx, s.PID)
}
