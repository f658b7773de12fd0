package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
)

// ErrAttached says that the container already has an endpoint: Detach it first.
var ErrAttached = errors.New("container is already attached")

// Attach connects a container to the network and publishes its ports. Either all of it is done or nothing is. The
// container gets its default route by the first network that has one; see SetGateways. Errors: *PortError for a port
// that cannot be had, ErrAttached, ipam's for an address, and what the kernel refuses, with the module it lacks. The
// first call makes the device and the table.
func (n *Network) Attach(ctx context.Context, r Request) (Endpoint, error) {
	n.host.whole.RLock()
	defer n.host.whole.RUnlock()
	end, err := n.begin(ctx, r.ID)
	if err != nil {
		return Endpoint{}, err
	}
	defer end()
	l := lease{
		ID: r.ID, PID: r.PID, Ports: r.Ports, IP: r.IP, IP6: r.IP6, MAC: r.MAC, Interface: r.Interface, Sysctls: r.Sysctls,
		LinkLocal: r.LinkLocal, Nonce: rand.Text(),
	}
	if err := n.attachProcess(ctx, l); errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err) {
		return Endpoint{}, err // what is asked for, in Docker's words
	} else if err != nil {
		return Endpoint{}, fmt.Errorf("attaching container %s to network %s: %w", r.ID, n.cfg.Name, err)
	}
	ep, _ := n.Endpoint(r.ID)
	return ep, nil
}

func (n *Network) attachProcess(ctx context.Context, l lease) error {
	if !validID.MatchString(l.ID) {
		return fmt.Errorf("container id %q: want letters, digits, _, . or -", l.ID)
	}
	sandbox, err := openSandbox(l.PID)
	if err != nil {
		return err
	}
	defer sandbox.Close()
	_, err = n.attach(ctx, l, sandbox)
	return err
}

// attach returns the lease with what it was given: its addresses, host ports and interface.
func (n *Network) attach(ctx context.Context, l lease, sandbox *os.File) (_ lease, err error) {
	dev, err := n.ensure(ctx)
	if err != nil {
		return l, err
	}
	inside, err := look(sandbox)
	if err != nil {
		return l, err
	}
	defer inside.Close()
	if l.Interface, err = inside.free(l.Interface, n.cfg.prefix()); err != nil {
		return l, err
	}
	if l, err = n.take(l); err != nil {
		return l, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.host.rules.apply(nil, elementsOf(l)))
			n.forget(l)
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return l, err
	}
	return l, n.plug(dev, l, inside)
}

// plug connects the sandbox first: a published port never leads into the void.
func (n *Network) plug(dev device, l lease, inside *interior) error {
	w := n.wire(dev, l)
	n.host.reaper.await(w.host)
	if err := w.connect(inside); err != nil {
		return err
	}
	if err := n.host.rules.apply(elementsOf(l), nil); err != nil {
		return errors.Join(err, deleteLink(w.host))
	}
	n.dropFlows(l)
	return nil
}

// Detach withdraws a container's ports, cuts it off and frees its addresses; its interface is deleted in the
// background, for which Close waits. It is no error when the container is not attached. When the host cannot be changed
// the lease stays, so that a second Detach, or Restore, finishes the work.
func (n *Network) Detach(ctx context.Context, id string) error {
	n.host.whole.RLock()
	defer n.host.whole.RUnlock()
	end, err := n.begin(ctx, id)
	if err != nil {
		return err
	}
	defer end()
	n.mu.Lock()
	l, ok := n.leases[id]
	n.mu.Unlock()
	if !ok {
		return nil
	}
	if err := n.unplug(l); err != nil {
		return fmt.Errorf("detaching container %s from network %s: %w", id, n.cfg.Name, err)
	}
	n.forget(l)
	return nil
}

// Disconnect is Detach of a container that goes on: it returns when the interface is gone.
func (n *Network) Disconnect(ctx context.Context, id string) error {
	n.mu.Lock()
	l, ok := n.leases[id]
	n.mu.Unlock()
	err := n.Detach(ctx, id)
	if ok {
		n.host.reaper.await(vethName(n.cfg.Device, l))
	}
	return err
}

// unplug withdraws the ports first, so that no client is led to an address without a container.
func (n *Network) unplug(l lease) error {
	if err := n.host.rules.apply(nil, elementsOf(l)); err != nil {
		return err
	}
	if err := n.cut(l); err != nil {
		return err
	}
	n.dropFlows(l)
	return nil
}

// cut takes the interface away.
func (n *Network) cut(l lease) error {
	if n.cfg.bridged() {
		return n.host.reaper.bury(vethName(n.cfg.Device, l))
	}
	return deleteInside(l)
}

// Publish gives a container that is attached other published ports, those that it has in common stay. Nothing changes
// after an error, which is a *PortError when a port cannot be had.
func (n *Network) Publish(ctx context.Context, id string, ports []Port) (Endpoint, error) {
	n.host.whole.RLock()
	defer n.host.whole.RUnlock()
	end, err := n.begin(ctx, id)
	if err != nil {
		return Endpoint{}, err
	}
	defer end()
	n.mu.Lock()
	old, ok := n.leases[id]
	n.mu.Unlock()
	if !ok {
		return Endpoint{}, fmt.Errorf("container %s is not attached to network %s", id, n.cfg.Name)
	}
	l := old
	n.host.ports.release(n.owner(id))
	if l.Ports, err = n.reserve(id, ports); err != nil {
		return Endpoint{}, errors.Join(err, n.host.ports.adopt(n.owner(id), old.Ports))
	}
	gone := slices.DeleteFunc(elementsOf(old), func(e element) bool { return slices.Contains(elementsOf(l), e) })
	if err := n.host.rules.apply(elementsOf(l), gone); err != nil {
		n.host.ports.release(n.owner(id))
		return Endpoint{}, errors.Join(err, n.host.ports.adopt(n.owner(id), old.Ports))
	}
	n.mu.Lock()
	n.leases[id] = l
	n.mu.Unlock()
	if err := n.store.save(l); err != nil {
		return Endpoint{}, err
	}
	n.dropFlows(l)
	ep, _ := n.Endpoint(id)
	return ep, nil
}
