package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
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
	if err := b.attachProcess(ctx, lease{ID: id, PID: pid, Ports: ports}); err != nil {
		return Endpoint{}, fmt.Errorf("attaching container %s to network %s: %w", id, b.opts.Name, err)
	}
	ep, _ := b.Endpoint(id)
	return ep, nil
}

func (b *Bridge) attachProcess(ctx context.Context, l lease) error {
	if !validID.MatchString(l.ID) {
		return fmt.Errorf("container id %q: want letters, digits, _, . or -", l.ID)
	}
	sandbox, err := openSandbox(l.PID)
	if err != nil {
		return err
	}
	defer sandbox.Close()
	_, err = b.attach(ctx, l, sandbox)
	return err
}

// attach returns the lease with what it was given: its address and host ports.
func (b *Bridge) attach(ctx context.Context, l lease, sandbox *os.File) (_ lease, err error) {
	bridge, err := b.ensure(ctx)
	if err != nil {
		return l, err
	}
	if l, err = b.take(l); err != nil {
		return l, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.rules.apply(nil, elementsOf(l)))
			b.forget(l)
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return l, err
	}
	return l, b.plug(bridge, l, sandbox)
}

// plug connects the sandbox first: a published port never leads into the void.
func (b *Bridge) plug(bridge *netlink.Bridge, l lease, sandbox *os.File) error {
	w := wire{
		bridge: bridge.Attrs().Index, bridgeName: bridge.Attrs().Name, mtu: bridge.Attrs().MTU, host: vethName(b.opts.Name, l),
		addr: netip.PrefixFrom(l.IP, b.Subnet().Bits()), gateway: b.Gateway(),
	}
	b.reaper.await(w.host)
	if err := w.connect(sandbox); err != nil {
		return err
	}
	if err := b.rules.apply(elementsOf(l), nil); err != nil {
		return errors.Join(err, deleteLink(w.host))
	}
	b.dropFlows(l)
	return nil
}

// take gives a lease an address and the host ports, and writes both down before anything of the host changes.
func (b *Bridge) take(l lease) (_ lease, err error) {
	if _, attached := b.Endpoint(l.ID); attached {
		return lease{}, ErrAttached
	}
	if l.Ports, err = b.ports.reserve(l.ID, l.Ports); err != nil {
		return lease{}, err
	}
	b.mu.Lock()
	if l.IP, err = b.pool.Next(l.ID); err == nil {
		b.leases[l.ID] = l
	}
	b.mu.Unlock()
	if err == nil && !l.fleeting {
		err = b.store.save(l)
	}
	if err != nil {
		b.forget(l)
		return lease{}, err
	}
	return l, nil
}

// forget undoes take.
func (b *Bridge) forget(l lease) {
	b.store.drop(l.ID)
	b.ports.release(l.ID)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.leases, l.ID)
	if b.pool != nil && l.IP.IsValid() {
		b.pool.Free(l.IP)
	}
}

// Detach withdraws a container's ports, cuts it off and frees its address; its veth pair is deleted in the background,
// for which Close waits. It is no error when the container is not attached. When the host cannot be changed the lease stays, so that a
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

// unplug withdraws the ports first, so that no client is led to an address without a container.
func (b *Bridge) unplug(l lease) error {
	if err := b.rules.apply(nil, elementsOf(l)); err != nil {
		return err
	}
	if err := b.reaper.bury(vethName(b.opts.Name, l)); err != nil {
		return err
	}
	b.dropFlows(l)
	return nil
}
