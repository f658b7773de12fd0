package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	moby "github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/gantry-build/gantry/solver"
)

// extendSystem adds to docker's system what is gantry's own.
func extendSystem(cmd *cobra.Command, at *place) {
	reset := systemReset(at)
	reset.PersistentPreRunE = func(*cobra.Command, []string) error { return nil } // it needs no daemon
	cmd.AddCommand(reset)
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
