package runner

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/internal/fault"
)

// Connect puts a container into a further network; one that runs at once, another with its start. Errors:
// errdefs.ErrPermissionDenied when it is in it, or when its mode has no room for others.
func (m *Manager) Connect(ctx context.Context, ref, container string, a Attachment) error {
	c, err := m.find(container)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.record()
	a.Name = ref
	if c.current() != nil {
		if err := m.claim(ctx, rec, &a); err != nil {
			return err
		}
	}
	ctx = context.WithoutCancel(ctx)
	if err := m.connectTo(ctx, c, rec, a); err != nil {
		return errors.Join(err, m.giveBack(ctx, a))
	}
	return nil
}

// connectTo is Connect with a place in the network, if that is the cluster's and the container runs.
func (m *Manager) connectTo(ctx context.Context, c *container, rec Record, a Attachment) error {
	m.joining.RLock()
	defer m.joining.RUnlock()
	n, err := m.NetworkOf(cmp.Or(a.Network, a.Name))
	if err != nil {
		return err
	}
	a.Network, a.Name = n.ID, n.Name
	if err := joinable(rec, n, a); err != nil {
		return err
	}
	rec.Attachments = append(slices.Clone(rec.Attachments), a)
	if c.current() == nil {
		return c.update(func(r *Record) { r.Attachments = rec.Attachments })
	}
	last := &rec.Attachments[len(rec.Attachments)-1]
	if err := m.attach(ctx, &rec, last, rec.State.Pid); err != nil {
		return err
	}
	if err := m.route(ctx, &rec, rec.State.Pid); err != nil {
		return errors.Join(err, m.disconnect(ctx, rec.ID, *last))
	}
	if err := m.moved(c, rec); err != nil {
		return err
	}
	m.emitNetwork("connect", n, "container", rec.ID)
	return nil
}

// joinable says whether a container can be connected to a network.
func joinable(rec Record, n NetworkRecord, a Attachment) error {
	if err := a.check(); err != nil {
		return err
	}
	if err := acceptable(n, a); err != nil {
		return err
	}
	mode := rec.HostConfig.NetworkMode
	switch {
	case n.Name == "host":
		return fault.Forbidden("cannot connect container to host network - container must be created in host network mode")
	case strings.HasPrefix(mode, "container:"):
		return fault.Conflict("container sharing network namespace with another container or host cannot be connected to any other network")
	}
	if _, in := rec.in(n.ID); in {
		return fault.Forbidden("endpoint with name %s already exists in network %s", rec.Name, n.Name)
	}
	for _, other := range rec.Attachments {
		if other.Name == "host" {
			return fault.Conflict("container sharing network namespace with another container or host cannot be connected to any other " +
				"network")
		}
		if err := together(other, a); err != nil {
			return err
		}
	}
	return nil
}

// Disconnect takes a container out of a network. errdefs.ErrPermissionDenied when it is not in it; with force a
// container that is gone is no error.
func (m *Manager) Disconnect(ctx context.Context, ref, container string, force bool) error {
	n, err := m.NetworkOf(ref)
	if err != nil {
		return err
	}
	c, err := m.find(container)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.record()
	a, in := rec.in(n.ID)
	switch {
	case n.Name == "host":
		return fault.Forbidden("container cannot be disconnected from host network or connected to host network")
	case !in:
		return fault.Forbidden("container %s is not connected to network %s", rec.ID, n.Name)
	}
	ctx = context.WithoutCancel(ctx)
	rec.Attachments = slices.DeleteFunc(slices.Clone(rec.Attachments), func(o Attachment) bool { return o.Network == n.ID })
	if c.current() == nil {
		return c.update(func(r *Record) { r.Attachments = rec.Attachments })
	}
	if err := m.disconnect(ctx, rec.ID, a); err != nil {
		return err
	}
	if a.Endpoint != nil && len(a.Endpoint.Ports) > 0 {
		rec.Ports = a.Endpoint.Ports // they move as they are
	}
	routed := m.route(ctx, &rec, rec.State.Pid)
	rec.Ports = c.record().Ports
	if err := errors.Join(routed, m.moved(c, rec)); err != nil {
		return err
	}
	m.emitNetwork("disconnect", n, "container", rec.ID)
	return nil
}

func (m *Manager) disconnect(ctx context.Context, id string, a Attachment) error {
	on, ok := m.o.Network.Network(m.idOn(a.Network))
	if !ok {
		return nil
	}
	return errors.Join(on.Disconnect(ctx, id), m.giveBack(ctx, a))
}

// moved books the networks of a container that runs, and tells it and others.
func (m *Manager) moved(c *container, rec Record) error {
	c.mu.Lock()
	ended := c.run == nil
	c.rec.Attachments = rec.Attachments
	if ended {
		c.rec.Attachments = left(rec.Attachments)
	}
	err := c.save()
	c.mu.Unlock()
	if ended { // meanwhile, when it was not in all of these networks
		return errors.Join(err, m.leave(m.ctx, rec))
	}
	return errors.Join(err, m.introduce(c))
}
