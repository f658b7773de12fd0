package network

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// reaper deletes veth pairs in the background. The kernel takes 15 to 25 ms for each (netdev_run_todo waits for RCU
// callbacks), which would be most of a container's end; taking the pair down cuts the container off at once.
type reaper struct {
	log     *slog.Logger
	mu      sync.Mutex
	pending map[string]chan struct{} // by device; closed when it is gone
}

func newReaper(log *slog.Logger) *reaper {
	return &reaper{log: log, pending: map[string]chan struct{}{}}
}

// bury takes a device down and starts its deletion. It is no error when the kernel was faster.
func (r *reaper) bury(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetDown(link)
	}
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("taking down %s: %w", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, already := r.pending[name]; already {
		return nil
	}
	gone := make(chan struct{})
	r.pending[name] = gone
	go r.delete(name, gone)
	return nil
}

func (r *reaper) delete(name string, gone chan struct{}) {
	if err := deleteLink(name); err != nil {
		r.log.Warn("a veth pair of a detached container stays until the next start of the daemon", "error", err)
	}
	r.mu.Lock()
	delete(r.pending, name)
	r.mu.Unlock()
	close(gone)
}

// await returns when no deletion of the device is under way.
func (r *reaper) await(name string) {
	r.mu.Lock()
	gone := r.pending[name]
	r.mu.Unlock()
	if gone != nil {
		<-gone
	}
}

// awaitAll returns when all deletions that have begun are done.
func (r *reaper) awaitAll() {
	r.mu.Lock()
	names := make([]string, 0, len(r.pending))
	for name := range r.pending {
		names = append(names, name)
	}
	r.mu.Unlock()
	for _, name := range names {
		r.await(name)
	}
}

// deleteLink deletes a device by name; it is no error when the kernel was faster.
func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

// deleteLinks goes wide: every deletion waits for the kernel.
func deleteLinks(names []string) error {
	var g errgroup.Group
	g.SetLimit(32)
	for _, name := range names {
		g.Go(func() error { return deleteLink(name) })
	}
	return g.Wait()
}

// strayVeths lists our veths on the bridge that belong to none of the wanted names.
func strayVeths(bridge int, wanted map[string]bool) ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("listing the bridge's ports: %w", err)
	}
	var stray []string
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex == bridge && strings.HasPrefix(a.Name, vethPrefix) && !wanted[a.Name] {
			stray = append(stray, a.Name)
		}
	}
	return stray, nil
}
