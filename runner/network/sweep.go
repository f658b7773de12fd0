package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// sweep takes away what networks have left that nobody knows: of a daemon that was killed while it made or removed
// them.
func (h *Host) sweep() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("looking for devices of networks that are gone: %w", err)
	}
	for _, l := range links {
		id, ours := strings.CutPrefix(l.Attrs().Alias, h.mark()+", ")
		if !ours {
			continue
		}
		if _, known := h.Network(id); known {
			continue
		}
		h.log.Info("deleting the device of a network that is gone", "device", l.Attrs().Name, "network", id)
		ports, err := strayVeths(l.Attrs().Index, nil)
		if err == nil {
			err = errors.Join(deleteLinks(ports), deleteLink(l.Attrs().Name))
		}
		if err != nil {
			return err
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(h.opts.State, "*", "leases"))
	for _, d := range dirs {
		d = filepath.Dir(d)
		if _, known := h.Network(filepath.Base(d)); known {
			continue
		}
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

// mark is how the aliases of all devices of this root begin.
func (h *Host) mark() string { return "gantry network, table " + h.opts.Table }
