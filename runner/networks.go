package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/dns"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// NetworkRecord is one of the networks that a container can be in. Its maps and slices are shared: read them only.
type NetworkRecord struct {
	Name       string
	ID         string // 64 hexadecimal digits, the same for ever in one data root
	Created    time.Time
	Driver     string            // bridge, host, null, macvlan, ipvlan, overlay
	Labels     map[string]string `json:",omitempty"`
	Options    map[string]string `json:",omitempty"` // as given
	IPAMDriver string            `json:",omitempty"`
	IPAMOption map[string]string `json:",omitempty"`
	Attachable bool              `json:",omitempty"`
	Ingress    bool              `json:",omitempty"`
	Config     network.Config    // zero for host and null
}

// Predefined says whether a network is always there.
func (n NetworkRecord) Predefined() bool {
	return slices.ContainsFunc(predefined, func(p NetworkRecord) bool { return p.Name == n.Name })
}

// names says whether containers in the network are found by their names: in those that users make.
func (n NetworkRecord) names() bool { return !n.Predefined() && !n.Ingress }

// predefined are the networks that are always there, with their drivers.
var predefined = []NetworkRecord{{Name: "bridge", Driver: "bridge"}, {Name: "host", Driver: "host"}, {Name: "none", Driver: "null"}}

func (m *Manager) networksFile() string { return filepath.Join(m.o.Root, "networks.json") }

// loadNetworks reads what networks there are, and gives new IDs to predefined ones that have none yet.
func (m *Manager) loadNetworks() error {
	data, err := os.ReadFile(m.networksFile())
	if err == nil {
		err = json.Unmarshal(data, &m.networks)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("the networks of %s: %w; remove the file to forget them", m.networksFile(), err)
	}
	m.tables = map[string]*dns.Table{}
	known := len(m.networks)
	for _, p := range predefined {
		if !slices.ContainsFunc(m.networks, func(n NetworkRecord) bool { return n.Name == p.Name }) {
			p.ID, p.Created = stringid.GenerateRandomID(), time.Now().UTC()
			m.networks = append(m.networks, p)
		}
	}
	for _, n := range m.networks {
		m.tables[n.ID] = &dns.Table{}
		if n.Config.ID == "" {
			continue
		}
		if err := m.o.Network.Add(n.Config); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	if len(m.networks) == known {
		return nil
	}
	return m.saveNetworks()
}

// saveNetworks is called with m.nets held, or before anyone else knows m.
func (m *Manager) saveNetworks() error {
	data, err := json.MarshalIndent(m.networks, "", "\t")
	if err != nil {
		return err
	}
	return state.Write(m.networksFile(), append(data, '\n'), 0o600)
}

// Networks returns all networks, by name.
func (m *Manager) Networks() []NetworkRecord {
	m.nets.Lock()
	all := slices.Clone(m.networks)
	m.nets.Unlock()
	for i := range all {
		if all[i].Name == "bridge" {
			all[i].Config = m.o.Network.Default().Config()
		}
	}
	slices.SortStableFunc(all, func(a, b NetworkRecord) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// NetworkOf finds a network by its name, its ID or the beginning of its ID. errdefs.ErrNotFound without it.
func (m *Manager) NetworkOf(ref string) (NetworkRecord, error) {
	var begins []NetworkRecord
	all := m.Networks()
	for _, n := range all {
		if n.ID == ref {
			return n, nil
		}
	}
	for _, n := range all {
		if n.Name == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			begins = append(begins, n)
		}
	}
	switch len(begins) {
	case 0:
		return NetworkRecord{}, fault.NotFound("network %s not found", ref)
	case 1:
		return begins[0], nil
	}
	return NetworkRecord{}, fault.Invalid("network %s is ambiguous (%d matches found on ID prefix)", ref, len(begins))
}

// on is what a network is on this host; false for host and null.
func (m *Manager) on(n NetworkRecord) (*network.Network, bool) {
	if n.Name == "bridge" {
		return m.o.Network.Default(), true
	}
	return m.o.Network.Network(n.ID)
}

// CreateNetwork makes a network, and gives it an ID if it has none. Errors: errdefs.ErrConflict for a name that is taken,
// ErrPermissionDenied for a predefined one, and those of network.Host.Create.
func (m *Manager) CreateNetwork(ctx context.Context, n NetworkRecord) (NetworkRecord, error) {
	if n.Predefined() {
		return n, fault.Forbidden("operation is not permitted on predefined %s network", n.Name)
	}
	if n.ID == "" { // else it is a cluster's
		n.ID, n.Created = stringid.GenerateRandomID(), time.Now().UTC()
	}
	n.Config.ID, n.Config.Name, n.Config.Driver = n.ID, n.Name, n.Driver
	if err := m.enterNetwork(&n); err != nil {
		return n, err
	}
	made, err := m.o.Network.Create(context.WithoutCancel(ctx), n.Config)
	if err != nil {
		return n, errors.Join(err, m.forgetNetwork(n))
	}
	n.Config = made
	m.nets.Lock()
	m.networks[m.indexOf(n.ID)] = n
	err = m.saveNetworks()
	m.nets.Unlock()
	if err != nil {
		return n, errors.Join(err, m.o.Network.Remove(ctx, n.ID), m.forgetNetwork(n))
	}
	m.emitNetwork("create", n)
	return n, nil
}

// enterNetwork takes a network's name.
func (m *Manager) enterNetwork(n *NetworkRecord) error {
	m.nets.Lock()
	defer m.nets.Unlock()
	if slices.ContainsFunc(m.networks, func(o NetworkRecord) bool { return o.Name == n.Name }) {
		return fault.Conflict("network with name %s already exists", n.Name)
	}
	m.networks = append(m.networks, *n)
	m.tables[n.ID] = &dns.Table{}
	return nil
}

// indexOf is called with m.nets held.
func (m *Manager) indexOf(id string) int {
	return slices.IndexFunc(m.networks, func(n NetworkRecord) bool { return n.ID == id })
}

// forgetNetwork gives a network's name up.
func (m *Manager) forgetNetwork(n NetworkRecord) error {
	m.nets.Lock()
	defer m.nets.Unlock()
	m.networks = slices.DeleteFunc(slices.Clone(m.networks), func(o NetworkRecord) bool { return o.ID == n.ID })
	delete(m.tables, n.ID)
	delete(m.others, n.ID)
	return m.saveNetworks()
}

// RemoveNetwork takes a network away. errdefs.ErrPermissionDenied when it is predefined or containers run in it.
func (m *Manager) RemoveNetwork(ctx context.Context, ref string) error {
	n, err := m.NetworkOf(ref)
	if err != nil {
		return err
	}
	if n.Predefined() {
		return fault.Forbidden("%s is a pre-defined network and cannot be removed", n.Name)
	}
	m.joining.Lock() // so that nobody joins meanwhile
	defer m.joining.Unlock()
	if users := m.InNetwork(n); len(users) > 0 {
		var names []string
		for _, u := range users {
			a, _ := u.in(n.ID)
			names = append(names, fmt.Sprintf("name:%q id:%q", u.Name, stringid.TruncateID(a.EndpointID)))
		}
		slices.Sort(names)
		return fault.Forbidden("error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(names, ", "))
	}
	if err := m.o.Network.Remove(context.WithoutCancel(ctx), n.ID); err != nil {
		return err
	}
	if err := m.forgetNetwork(n); err != nil {
		return err
	}
	m.emitNetwork("destroy", n)
	return nil
}

// InNetwork returns the containers that run in a network.
func (m *Manager) InNetwork(n NetworkRecord) (all []Record) {
	for _, r := range m.List() {
		if a, ok := r.in(n.ID); ok && a.EndpointID != "" {
			all = append(all, r)
		}
	}
	return all
}

// NetworkUsers returns the containers that are, or are to be, in a network, whether they run or not.
func (m *Manager) NetworkUsers(n NetworkRecord) (all []Record) {
	for _, r := range m.List() {
		if _, ok := r.in(n.ID); ok {
			all = append(all, r)
		}
	}
	return all
}

// Subnets are the addresses of a network, with what was chosen of them; none for host and null.
func (m *Manager) Subnets(n NetworkRecord) []ipam.Config {
	on, ok := m.on(n)
	if !ok {
		return nil
	}
	return on.IPAM()
}

// Usage is how many addresses of a subnet are taken and how many can still be had.
func (m *Manager) Usage(n NetworkRecord, c ipam.Config) (taken, free uint64) {
	on, ok := m.on(n)
	if !ok {
		return 0, 0
	}
	return on.Usage(c.Subnet)
}

// emitNetworks publishes that a container has come into its networks, or left them.
func (m *Manager) emitNetworks(action string, rec Record) {
	for _, a := range rec.Attachments {
		if n, err := m.NetworkOf(a.Network); err == nil {
			m.emitNetwork(action, n, "container", rec.ID)
		}
	}
}

// emitNetwork publishes an event of a network, with Docker's attributes.
func (m *Manager) emitNetwork(action string, n NetworkRecord, extra ...string) {
	attrs := map[string]string{"name": n.Name, "type": n.Driver}
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	m.Publish(Event{Type: "network", Action: action, ID: n.ID, Attributes: attrs})
}
