package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// ErrAttached says that the container already has an endpoint: Detach it first.
var ErrAttached = errors.New("container is already attached")

// Attach connects the network namespace of process pid, which must not be the host's, and publishes ports. Either
// all of it is done or nothing is. Errors: *PortError for a port that cannot be had, ErrAttached, and what the
// kernel refuses, with the module it lacks. The first call makes the bridge device and the table.
func (b *Bridge) Attach(ctx context.Context, id string, pid int, ports []Port) (Endpoint, error) {
	b.whole.RLock()
	defer b.whole.RUnlock()
	end, err := b.begin(ctx, id)
	if err != nil {
		return Endpoint{}, err
	}
	defer end()
	ep, err := b.attach(ctx, id, pid, ports)
	if err != nil {
		return Endpoint{}, fmt.Errorf("attaching container %s to network %s: %w", id, b.opts.Name, err)
	}
	return ep, nil
}

func (b *Bridge) attach(ctx context.Context, id string, pid int, ports []Port) (ep Endpoint, err error) {
	if !validID.MatchString(id) {
		return ep, fmt.Errorf("container id %q: want letters, digits, _, . or -", id)
	}
	sandbox, err := openSandbox(pid)
	if err != nil {
		return ep, err
	}
	defer sandbox.Close()
	bridge, err := b.ensure(ctx)
	if err != nil {
		return ep, err
	}
	l, err := b.lease(id, pid, ports)
	if err != nil {
		return ep, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.rules.apply(nil, elementsOf(l)))
			b.forget(l)
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return ep, err
	}
	return b.plug(bridge, l, sandboxFile{sandbox})
}

// lease takes an address and the host ports, and writes both down before anything of the host changes.
func (b *Bridge) lease(id string, pid int, ports []Port) (lease, error) {
	if _, attached := b.Endpoint(id); attached {
		return lease{}, ErrAttached
	}
	ports, err := b.ports.reserve(id, ports)
	if err != nil {
		return lease{}, err
	}
	l := lease{ID: id, Ports: ports, PID: pid}
	b.mu.Lock()
	if l.IP, err = b.pool.next(id); err == nil {
		b.leases[id] = l
	}
	b.mu.Unlock()
	if err == nil {
		err = b.store.save(l)
	}
	if err != nil {
		b.forget(l)
		return lease{}, err
	}
	return l, nil
}

// forget undoes lease.
func (b *Bridge) forget(l lease) {
	b.store.drop(l.ID)
	b.ports.release(l.ID)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.leases, l.ID)
	if b.pool != nil && l.IP.IsValid() {
		b.pool.free(l.IP)
	}
}

// Detach withdraws a container's ports, frees its address, and deletes its veth pair if the namespace still lives.
// It is no error when the container is not attached. When the host cannot be changed the lease stays, so that a
// second Detach, or Restore, finishes the work.
func (b *Bridge) Detach(ctx context.Context, id string) error {
	b.whole.RLock()
	defer b.whole.RUnlock()
	end, err := b.begin(ctx, id)
	if err != nil {
		return err
	}
	defer end()
	b.mu.Lock()
	l, ok := b.leases[id]
	b.mu.Unlock()
	if !ok {
		return nil
	}
	if err := b.unplug(l); err != nil {
		return fmt.Errorf("detaching container %s from network %s: %w", id, b.opts.Name, err)
	}
	b.forget(l)
	return nil
}

// unplug waits for the two deletions side by side: each costs a grace period of the kernel.
func (b *Bridge) unplug(l lease) error {
	var g errgroup.Group
	g.Go(func() error { return b.rules.apply(nil, elementsOf(l)) })
	g.Go(func() error { return deleteLink(vethName(b.opts.Name, l.ID)) })
	if err := g.Wait(); err != nil {
		return err
	}
	b.dropFlows(l)
	return nil
}
