package runner

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
)

// Claim asks for a place in a network of a cluster's.
type Claim struct {
	Container string   // its ID
	Names     []string // by which others are to find it
	Network   string   // the network's name or ID
	Addrs     []netip.Addr
}

// Place is what a cluster has given.
type Place struct {
	ID      string // of the claim
	Network string // the network's ID; it is here
	Addrs   []netip.Addr
}

// Places gives containers that are no tasks of a cluster their places in its networks.
type Places interface {
	// Take fails with errdefs.ErrNotFound when there is no such network, or no cluster.
	Take(ctx context.Context, c Claim) (Place, error)
	// Give gives a place back.
	Give(ctx context.Context, id string) error
}

// SetPlaces says who gives places in a cluster's networks; nil is nobody.
func (m *Manager) SetPlaces(p Places) {
	m.places.Store(&p)
	m.said.Do(func() {
		if m.placesSaid != nil {
			close(m.placesSaid)
		}
	})
}

// placesWait is how long a container of a cluster's network that starts with the daemon waits until SetPlaces has been called.
const placesWait = 20 * time.Second

// claim asks the cluster for a container's place in a network, if it is the cluster's. It must not be called with m.joining held: the
// network may have to be made.
func (m *Manager) claim(ctx context.Context, rec Record, a *Attachment) error {
	if a.Task || a.Place != nil {
		return nil
	}
	ref := cmp.Or(a.Network, a.Name)
	n, err := m.NetworkOf(ref)
	if err == nil && n.ID != ref && n.Name != ref && m.places.Load() != nil {
		err = fault.NotFound("network %s not found", ref) // the cluster may have one of this name
	}
	if err == nil && n.Driver == network.DriverOverlay {
		select {
		case <-m.placesSaid:
		case <-time.After(placesWait):
		case <-ctx.Done():
		}
	}
	places := m.places.Load()
	switch {
	case err == nil && n.Driver != network.DriverOverlay:
		return nil
	case err == nil && (places == nil || *places == nil):
		return fault.Unavailable("network %s is a cluster's, in which this machine is no more", n.Name)
	case places == nil || *places == nil:
		return nil // that there is none is said later
	}
	c := Claim{Container: rec.ID, Names: rec.NamesIn(*a), Network: ref}
	for _, ip := range []netip.Addr{a.IP, a.IP6} {
		if ip.IsValid() {
			c.Addrs = append(c.Addrs, ip)
		}
	}
	got, err := (*places).Take(ctx, c)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	a.Place, a.Network = &got, got.Network
	return nil
}

// giveBack returns the places of attachments.
func (m *Manager) giveBack(ctx context.Context, all ...Attachment) error {
	places := m.places.Load()
	if places == nil || *places == nil {
		return nil
	}
	var errs []error
	for _, a := range all {
		if a.Place == nil {
			continue
		}
		if err := (*places).Give(ctx, a.Place.ID); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// addresses are those that a container asks its network for.
func (a Attachment) addresses() (ip, ip6 netip.Addr) {
	if a.Place == nil {
		return a.IP, a.IP6
	}
	for _, addr := range a.Place.Addrs {
		if addr.Is4() {
			ip = addr
		} else {
			ip6 = addr
		}
	}
	return ip, ip6
}
