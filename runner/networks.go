package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client/pkg/stringid"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/state"
)

// NetworkRecord is one of the networks that a container can be in.
type NetworkRecord struct {
	Name    string
	ID      string // 64 hexadecimal digits, the same for ever in one data root
	Created time.Time
	Driver  string       // bridge, host or null
	Device  string       `json:"-"` // of the host, for bridge
	Subnet  netip.Prefix `json:"-"` // zero until a container has needed it
	Gateway netip.Addr   `json:"-"`
}

// predefined are the networks that are always there, with their drivers.
var predefined = []NetworkRecord{{Name: "bridge", Driver: "bridge"}, {Name: "host", Driver: "host"}, {Name: "none", Driver: "null"}}

// loadNetworks reads which IDs the networks have, and gives new ones to those that have none yet.
func (m *Manager) loadNetworks() error {
	file := filepath.Join(m.o.Root, "networks.json")
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &m.networks)
	} else if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("the networks of %s: %w; remove the file to give them new IDs", file, err)
	}
	known := len(m.networks)
	for _, p := range predefined {
		if !slices.ContainsFunc(m.networks, func(n NetworkRecord) bool { return n.Name == p.Name }) {
			p.ID, p.Created = stringid.GenerateRandomID(), time.Now().UTC()
			m.networks = append(m.networks, p)
		}
	}
	if len(m.networks) == known {
		return nil
	}
	if data, err = json.Marshal(m.networks); err != nil {
		return err
	}
	return state.Write(file, data, 0o600)
}

// Networks returns all networks, by name.
func (m *Manager) Networks() []NetworkRecord {
	all := slices.Clone(m.networks)
	for i := range all {
		if all[i].Driver == "bridge" {
			all[i].Device, all[i].Subnet, all[i].Gateway = m.o.Network.Device(), m.o.Network.Subnet(), m.o.Network.Gateway()
		}
	}
	slices.SortFunc(all, func(a, b NetworkRecord) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// NetworkOf finds a network by its name, its ID or the beginning of its ID. errdefs.ErrNotFound without it.
func (m *Manager) NetworkOf(ref string) (NetworkRecord, error) {
	var begins []NetworkRecord
	for _, n := range m.Networks() {
		if n.Name == ref || n.ID == ref {
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

// InNetwork returns the containers that run in a network.
func (m *Manager) InNetwork(n NetworkRecord) (all []Record) {
	for _, r := range m.List() {
		if r.State.Running && r.HostConfig.NetworkMode == n.Name {
			all = append(all, r)
		}
	}
	return all
}
