package api

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

func registerNetworks(r *Router, m *runner.Manager) {
	n := &networksAPI{m}
	r.Handle(http.MethodGet, "/networks", n.list)
	r.Handle(http.MethodPost, "/networks/create", n.create)
	r.Handle(http.MethodPost, "/networks/prune", n.prune)
	r.Handle(http.MethodGet, "/networks/{id}", n.inspect)
	r.Handle(http.MethodDelete, "/networks/{id}", n.remove)
}

// networksAPI serves the networks that are always there over the runner.
type networksAPI struct{ m *runner.Manager }

func networkOf(n runner.NetworkRecord) network.Network {
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver, EnableIPv4: true,
		IPAM:    network.IPAM{Driver: "default", Config: []network.IPAMConfig{}},
		Options: map[string]string{}, Labels: map[string]string{},
	}
	if n.Driver != "bridge" {
		return out
	}
	out.Options = map[string]string{
		"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.enable_icc": "true",
		"com.docker.network.bridge.enable_ip_masquerade": "true", "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
		"com.docker.network.bridge.name": n.Device,
	}
	if n.Subnet.IsValid() {
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: n.Subnet, Gateway: n.Gateway})
	}
	return out
}

func (a *networksAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("dangling", "driver", "id", "label", "name", "scope", "type"); err != nil {
		return err
	}
	dangling, err := f.boolean("dangling")
	if err != nil {
		return err
	}
	for _, v := range f.values("type") {
		if v != "builtin" && v != "custom" {
			return fault.Invalid("invalid filter: 'type'='%s'", v)
		}
	}
	is := func(term string, match func(string) bool) bool {
		return !f.any(term) || slices.ContainsFunc(f.values(term), match)
	}
	out := []network.Summary{}
	for _, n := range a.m.Networks() {
		if (dangling == nil || !*dangling) && // these are never that
			is("driver", func(v string) bool { return v == n.Driver }) &&
			is("id", func(v string) bool { return strings.HasPrefix(n.ID, v) }) &&
			is("name", func(v string) bool { return strings.Contains(n.Name, v) }) &&
			is("scope", func(v string) bool { return v == "local" }) &&
			is("type", func(v string) bool { return v == "builtin" }) && f.labels("label", nil) {
			out = append(out, network.Summary{Network: networkOf(n)})
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a *networksAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	if scope := r.URL.Query().Get("scope"); scope != "" && scope != "local" {
		return fault.NotFound("network %s not found", r.PathValue("id"))
	}
	if v := r.URL.Query().Get("verbose"); v != "" {
		if _, err := strconv.ParseBool(v); err != nil {
			return fault.Invalid("invalid value for verbose: %s", v)
		}
	}
	n, err := a.m.NetworkOf(r.PathValue("id"))
	if err != nil {
		return err
	}
	out := network.Inspect{Network: networkOf(n), Containers: map[string]network.EndpointResource{}}
	for _, rec := range a.m.InNetwork(n) {
		in := network.EndpointResource{Name: rec.Name, EndpointID: rec.ID}
		if ep := rec.Endpoint; ep != nil {
			in.IPv4Address, in.MacAddress = netip.PrefixFrom(ep.IP, ep.PrefixLen), network.HardwareAddr(ep.MAC)
		}
		out.Containers[rec.ID] = in
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a *networksAPI) create(w http.ResponseWriter, r *http.Request) error {
	var req struct{ Name string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&req); err != nil {
		return fault.Invalid("invalid JSON: %v", err)
	}
	for _, n := range a.m.Networks() {
		if n.Name == req.Name {
			return errdefs.ErrPermissionDenied.WithMessage("operation is not permitted on predefined " + req.Name + " network")
		}
	}
	return errdefs.ErrNotImplemented.WithMessage("network " + req.Name + " can't be made: this version has the networks bridge, host and " +
		"none")
}

func (a *networksAPI) remove(_ http.ResponseWriter, r *http.Request) error {
	n, err := a.m.NetworkOf(r.PathValue("id"))
	if err != nil {
		return err
	}
	return errdefs.ErrPermissionDenied.WithMessage(n.Name + " is a pre-defined network and cannot be removed")
}

// prune removes the networks that nobody uses; the predefined ones stay.
func (a *networksAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("until", "label", "label!"); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, network.PruneReport{NetworksDeleted: []string{}})
}
