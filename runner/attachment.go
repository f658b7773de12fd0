package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Attachment is a container's place in one network: as it was asked for and, while it runs, as it is.
type Attachment struct {
	Network    string            // the network's ID; empty as long as there is none of that name
	Name       string            // the network's name
	Aliases    []string          `json:",omitempty"`
	Links      []string          `json:",omitempty"` // NAME:ALIAS
	DriverOpts map[string]string `json:",omitempty"`
	GwPriority int               `json:",omitempty"`
	MAC        net.HardwareAddr  `json:",omitempty"` // asked for
	IP         netip.Addr        `json:",omitzero"`  // asked for
	IP6        netip.Addr        `json:",omitzero"`  // asked for
	LinkLocal  []netip.Addr      `json:",omitempty"`

	Task  bool   `json:",omitempty"` // the container is a cluster's, which has given it its addresses
	Place *Place `json:",omitempty"` // while it runs, in a cluster's networks

	EndpointID string            `json:",omitempty"` // while the container runs
	Endpoint   *network.Endpoint `json:",omitempty"` // while it runs, on networks with interfaces
}

// Options of an endpoint, by their names in Docker's API.
const (
	optInterface = "com.docker.network.endpoint.ifname"
	optSysctls   = "com.docker.network.endpoint.sysctls"
)

// check says what is wrong with what is asked of an attachment, before there is a network.
func (a Attachment) check() error {
	for k := range a.DriverOpts {
		if k != optInterface && k != optSysctls {
			return fault.Invalid("unsupported option of an endpoint: %s", k)
		}
	}
	for _, l := range a.Links {
		if name, alias, ok := strings.Cut(l, ":"); name == "" || ok && alias == "" {
			return fault.Invalid("invalid link %q: want NAME or NAME:ALIAS", l)
		}
	}
	if a.IP.IsValid() && !a.IP.Is4() {
		return fault.Invalid("invalid IPv4 address: %s", a.IP)
	}
	if a.IP6.IsValid() && !a.IP6.Is6() {
		return fault.Invalid("invalid IPv6 address: %s", a.IP6)
	}
	return nil
}

// in is a container's place in a network.
func (r Record) in(id string) (Attachment, bool) {
	for _, a := range r.Attachments {
		if a.Network == id {
			return a, true
		}
	}
	return Attachment{}, false
}

// Ways returns the attachments by which a container sends to other networks: by IPv4, which also has its published
// ports, and by IPv6. As in Docker that is the one of the highest priority, and of these the first by name.
func (r Record) Ways() (way, way6 *Attachment) {
	order := make([]*Attachment, 0, len(r.Attachments))
	for i := range r.Attachments {
		if r.Attachments[i].Endpoint != nil {
			order = append(order, &r.Attachments[i])
		}
	}
	slices.SortStableFunc(order, func(a, b *Attachment) int {
		return cmp.Or(cmp.Compare(b.GwPriority, a.GwPriority), cmp.Compare(a.Name, b.Name))
	})
	for _, a := range order {
		if way == nil && a.Endpoint.Gateway.IsValid() {
			way = a
		}
		if way6 == nil && a.Endpoint.Gateway6.IsValid() {
			way6 = a
		}
	}
	return way, way6
}

// Published are the ports of the host that lead to a container.
func (r Record) Published() (ports []network.Port) {
	for _, a := range r.Attachments {
		if a.Endpoint != nil {
			ports = append(ports, a.Endpoint.Ports...)
		}
	}
	return ports
}

// settleNetwork fills in the network mode, and where the container is to be.
func (m *Manager) settleNetwork(rec *Record, asked []Attachment) (err error) {
	h := &rec.HostConfig
	switch {
	case rec.Config.NetworkDisabled:
		h.NetworkMode = "none"
	case h.NetworkMode == "" || h.NetworkMode == "default":
		h.NetworkMode = "bridge"
	}
	if ref, shares := strings.CutPrefix(h.NetworkMode, "container:"); shares {
		if err := guest(*rec); err != nil {
			return err
		}
		c, err := m.find(ref)
		if err != nil {
			return fault.Invalid("%v", err) // not a 404: docker run would pull the image
		}
		h.NetworkMode = "container:" + c.id
		rec.Config.Hostname, rec.Config.Domainname = c.record().Config.Hostname, c.record().Config.Domainname
	}
	rec.Attachments, err = m.attachments(h.NetworkMode, asked)
	return err
}

// guest refuses what a container can't have that shares another's network, in Docker's words.
func guest(rec Record) error {
	h, c := rec.HostConfig, rec.Config
	conflict := func(what string) error {
		return fault.Invalid("conflicting options: %s and the network mode", what)
	}
	switch {
	case c.Hostname != "":
		return conflict("hostname")
	case len(h.Links) > 0:
		return fault.Invalid("conflicting options: container type network can't be used with links. This would result in undefined " +
			"behavior")
	case len(h.DNS) > 0:
		return conflict("dns")
	case len(h.ExtraHosts) > 0:
		return fault.Invalid("conflicting options: custom host-to-IP mapping and the network mode")
	case len(h.PortBindings) > 0 || h.PublishAllPorts:
		return fault.Invalid("conflicting options: port publishing and the container type network mode")
	case len(c.ExposedPorts) > 0:
		return fault.Invalid("conflicting options: port exposing and the container type network mode")
	}
	return nil
}

// attachments are where a container with these options is to be: as in Docker, in the network of its mode only when
// the client names no other. The default one comes first, and the others by name.
func (m *Manager) attachments(mode string, asked []Attachment) ([]Attachment, error) {
	if strings.HasPrefix(mode, "container:") {
		if len(asked) > 0 {
			return nil, fault.Invalid("conflicting options: cannot attach a container that shares another's network to a network")
		}
		return nil, nil
	}
	var out []Attachment
	add := func(a Attachment) error {
		if err := a.check(); err != nil {
			return err
		}
		if n, err := m.NetworkOf(a.Name); err == nil {
			a.Network, a.Name = n.ID, n.Name
			if err := acceptable(n, a); err != nil {
				return err
			}
		}
		if i := slices.IndexFunc(out, func(o Attachment) bool { return o.Name == a.Name }); i >= 0 {
			out[i] = a // said more closely
			return nil
		}
		out = append(out, a)
		return nil
	}
	if len(asked) == 0 {
		asked = []Attachment{{Name: mode}}
	}
	for _, a := range asked {
		if a.Name == "default" {
			a.Name = mode
		}
		if err := add(a); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b Attachment) int {
		if (a.Name == "bridge") != (b.Name == "bridge") {
			return map[bool]int{true: -1, false: 1}[a.Name == "bridge"]
		}
		return cmp.Compare(a.Name, b.Name)
	})
	for _, a := range out[1:] {
		if err := together(out[0], a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// together says whether a container can be in two networks.
func together(a, b Attachment) error {
	for _, one := range []Attachment{a, b} {
		switch one.Name {
		case "host":
			return fault.Invalid("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
		case "none":
			return fault.Forbidden("container cannot be connected to multiple networks with one of the networks in private (none) mode")
		}
	}
	return nil
}

// acceptable says whether a network can give what is asked of it, in Docker's words.
func acceptable(n NetworkRecord, a Attachment) error {
	if n.Driver == network.DriverOverlay && !a.Task && !n.Attachable {
		return fault.Forbidden("Could not attach to network %s: network %s not manually attachable", n.Name, n.Name)
	}
	var wrong []string
	if n.Predefined() && (a.IP.IsValid() || a.IP6.IsValid()) {
		wrong = append(wrong, "user-specified IP address is supported on user-defined networks only")
	}
	if n.Predefined() && len(a.Aliases) > 0 {
		wrong = append(wrong, "network-scoped aliases are only supported for user-defined networks")
	}
	for _, ip := range []netip.Addr{a.IP, a.IP6} {
		if ip.IsValid() && !slices.ContainsFunc(n.Config.IPAM, func(c ipam.Config) bool { return c.Subnet.Contains(ip) }) {
			wrong = append(wrong, "no configured subnet contains IP address "+ip.String())
		}
	}
	if len(wrong) > 1 {
		for i := range wrong {
			wrong[i] = "* " + wrong[i]
		}
	}
	if len(wrong) > 0 {
		return fault.Invalid("invalid config for network %s: invalid endpoint settings:\n%s", n.Name, strings.Join(wrong, "\n"))
	}
	return nil
}

// join puts a process's network namespace into the networks of its container, and publishes the ports by the one that
// is its way out. After an error it is in none.
func (m *Manager) join(ctx context.Context, rec *Record, pid int) (err error) {
	rec.Attachments = slices.Clone(rec.Attachments)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.leave(ctx, *rec))
			rec.Attachments = left(rec.Attachments)
		}
	}()
	for i := range rec.Attachments {
		if err := m.claim(ctx, *rec, &rec.Attachments[i]); err != nil {
			return fmt.Errorf("failed to set up container networking: %w", err)
		}
	}
	m.joining.RLock()
	defer m.joining.RUnlock()
	for i := range rec.Attachments {
		if err := m.attach(ctx, rec, &rec.Attachments[i], pid); err != nil {
			return fmt.Errorf("failed to set up container networking: %w", err)
		}
	}
	return m.route(ctx, rec, pid)
}

// attach puts a container into one network, without ports. The caller holds m.joining.
func (m *Manager) attach(ctx context.Context, rec *Record, a *Attachment, pid int) error {
	n, err := m.NetworkOf(cmp.Or(a.Network, a.Name))
	if err != nil {
		return err
	}
	a.Network, a.Name, a.EndpointID = n.ID, n.Name, stringid.GenerateRandomID()
	on, ok := m.on(n)
	if !ok {
		return nil
	}
	r := network.Request{ID: rec.ID, PID: pid, MAC: a.MAC, LinkLocal: a.LinkLocal, Interface: a.DriverOpts[optInterface]}
	r.IP, r.IP6 = a.addresses()
	if s := a.DriverOpts[optSysctls]; s != "" {
		r.Sysctls = strings.Split(s, ",")
	}
	ep, err := on.Attach(ctx, r)
	if errors.Is(err, network.ErrAttached) { // the daemon died between the two halves of an end
		if err = on.Detach(ctx, rec.ID); err == nil {
			ep, err = on.Attach(ctx, r)
		}
	}
	if err != nil {
		return err
	}
	a.Endpoint = &ep
	return nil
}

// route gives a container its ways out, and moves its published ports to them.
func (m *Manager) route(ctx context.Context, rec *Record, pid int) error {
	way, way6 := rec.Ways()
	var gateway, gateway6 netip.Addr
	if way != nil {
		gateway = way.Endpoint.Gateway
	}
	if way6 != nil {
		gateway6 = way6.Endpoint.Gateway6
	}
	ports := rec.Published()
	if len(ports) == 0 {
		ports = rec.Ports
	}
	interfaces := 0
	for i := range rec.Attachments {
		a := &rec.Attachments[i]
		if a.Endpoint == nil {
			continue
		}
		interfaces++
		if a != way && len(a.Endpoint.Ports) > 0 {
			if err := m.publish(ctx, rec.ID, a, nil); err != nil {
				return err
			}
		}
	}
	if way != nil && len(ports) > 0 && len(way.Endpoint.Ports) == 0 {
		if err := m.publish(ctx, rec.ID, way, ports); err != nil {
			return fmt.Errorf("failed to set up container networking: %w", err)
		}
	}
	if interfaces < 2 {
		return nil // its only interface has brought its routes
	}
	return network.SetGateways(pid, gateway, gateway6)
}

func (m *Manager) publish(ctx context.Context, id string, a *Attachment, ports []network.Port) error {
	on, ok := m.o.Network.Network(m.idOn(a.Network))
	if !ok {
		return fault.NotFound("network %s not found", a.Name)
	}
	ep, err := on.Publish(ctx, id, ports)
	if err != nil {
		return err
	}
	a.Endpoint = &ep
	return nil
}

// idOn is how a network is called on the host.
func (m *Manager) idOn(id string) string {
	if n, err := m.NetworkOf(id); err == nil && n.Name == "bridge" {
		return network.DefaultID
	}
	return id
}

// leave takes a container out of its networks.
func (m *Manager) leave(ctx context.Context, rec Record) error {
	var errs []error
	for _, a := range rec.Attachments {
		if on, ok := m.o.Network.Network(m.idOn(a.Network)); ok {
			errs = append(errs, on.Detach(ctx, rec.ID))
		}
	}
	return errors.Join(append(errs, m.giveBack(ctx, rec.Attachments...))...)
}

// attachOld says in the record of an earlier version, which knew the predefined networks only, where its container is.
func (m *Manager) attachOld(rec *Record) {
	n, err := m.NetworkOf(rec.HostConfig.NetworkMode)
	if len(rec.Attachments) > 0 || err != nil || !n.Predefined() {
		return
	}
	a := Attachment{Network: n.ID, Name: n.Name}
	if on, ok := m.on(n); ok && rec.State.Running {
		if ep, in := on.Endpoint(rec.ID); in {
			a.EndpointID, a.Endpoint = rec.ID, &ep
		}
	}
	rec.Attachments = []Attachment{a}
}

// left are attachments without what there is only while a container runs.
func left(all []Attachment) []Attachment {
	all = slices.Clone(all)
	for i := range all {
		all[i].Endpoint, all[i].EndpointID, all[i].Place = nil, "", nil
	}
	return all
}
