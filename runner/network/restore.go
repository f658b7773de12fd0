package network

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Restore brings the host and the state in line with the containers that really run, after the daemon has restarted
// or after a firewall was reloaded: those keep their addresses and ports, the leases, rules and veth pairs of all
// others go, but for the sandboxes of this process. The table is written anew. It may be called at any time and any
// number of times; Attach and Detach wait for it.
func (b *Bridge) Restore(ctx context.Context, running []string) error {
	b.whole.Lock()
	defer b.whole.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	b.reaper.awaitAll()
	b.keepOnly(running)
	b.bindPorts()
	b.rules.seed(b.Subnet(), b.allElements())
	br, err := b.bridgeDevice()
	if err != nil {
		return fmt.Errorf("restoring network %s: %w", b.opts.Name, err)
	}
	if br == nil && len(b.leases) == 0 {
		return nil // nothing on the host yet: it stays so until the first Attach
	}
	b.host.Lock()
	b.configured = false
	b.host.Unlock()
	if br, err = b.ensure(ctx); err == nil {
		err = b.sweep(br)
	}
	if err != nil {
		return fmt.Errorf("restoring network %s: %w", b.opts.Name, err)
	}
	return nil
}

// keepOnly forgets the leases of containers that do not run.
func (b *Bridge) keepOnly(running []string) {
	for _, l := range b.snapshot() {
		if !l.fleeting && !slices.Contains(running, l.ID) {
			b.log.Debug("forgetting the lease of a container that is gone", "container", l.ID)
			b.forget(l)
		}
	}
}

// bindPorts binds the published ports again, whose sockets ended with the earlier process.
func (b *Bridge) bindPorts() {
	b.ports.releaseAll()
	for _, l := range b.snapshot() {
		if err := b.ports.adopt(l.ID, l.Ports); err != nil {
			b.log.Warn("a published port is also used by a program on the host", "container", l.ID, "error", err)
		}
	}
}

func (b *Bridge) snapshot() []lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]lease, 0, len(b.leases))
	for _, l := range b.leases {
		all = append(all, l)
	}
	return all
}

// sweep deletes veth pairs on the bridge that no lease knows: what a killed daemon left half made.
func (b *Bridge) sweep(br *netlink.Bridge) error {
	wanted := map[string]bool{}
	for _, l := range b.snapshot() {
		wanted[vethName(b.opts.Name, l)] = true
	}
	stray, err := strayVeths(br.Attrs().Index, wanted)
	if err != nil {
		return err
	}
	return deleteLinks(stray)
}

// Remove takes the network off the host and forgets it: containers' veth pairs, bridge device, table and state. It
// leaves IPv4 forwarding as it is, on which others may rely by now. Calling it again is no error.
func (b *Bridge) Remove(ctx context.Context) error {
	b.whole.Lock()
	defer b.whole.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	b.host.Lock()
	defer b.host.Unlock()
	b.reaper.awaitAll()
	b.ports.releaseAll()
	err := errors.Join(b.removeDevices(), b.rules.remove())
	if err == nil {
		err = b.store.remove()
	}
	if err != nil {
		return fmt.Errorf("removing network %s: %w", b.opts.Name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.leases)
	b.configured, b.pool = false, nil
	if b.opts.Subnet.IsValid() {
		b.pool, err = ipam.New(ipam.Config{Subnet: b.opts.Subnet.Masked()})
	}
	return err
}

func (b *Bridge) removeDevices() error {
	br, err := b.bridgeDevice()
	if err != nil || br == nil {
		return err
	}
	ports, err := strayVeths(br.Attrs().Index, nil)
	if err != nil {
		return err
	}
	return errors.Join(deleteLinks(ports), deleteLink(b.opts.Name))
}
