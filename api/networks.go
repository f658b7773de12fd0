package api

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

func registerNetworks(r *Router, m *runner.Manager, s *Swarm) {
	n := &networksAPI{m, s}
	r.Handle(http.MethodGet, "/networks", n.list)
	r.Handle(http.MethodGet, "/networks/{$}", n.list)
	r.Handle(http.MethodPost, "/networks/create", n.create)
	r.Handle(http.MethodPost, "/networks/prune", n.prune)
	r.Handle(http.MethodGet, "/networks/{id}", n.inspect)
	r.Handle(http.MethodDelete, "/networks/{id}", n.remove)
	r.Handle(http.MethodPost, "/networks/{id}/connect", n.connect)
	r.Handle(http.MethodPost, "/networks/{id}/disconnect", n.disconnect)
}

// networksAPI serves networks over the runner.
type networksAPI struct {
	m     *runner.Manager
	swarm *Swarm // may be nil
}

func (a *networksAPI) described(n runner.NetworkRecord) network.Network {
	out := network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver,
		EnableIPv4: n.Config.IPv4 || n.Config.ID == "", EnableIPv6: n.Config.IPv6, Internal: n.Config.Internal,
		Attachable: n.Attachable, Ingress: n.Ingress,
		IPAM:    network.IPAM{Driver: "default", Options: n.IPAMOption, Config: []network.IPAMConfig{}},
		Options: n.Options, Labels: n.Labels,
	}
	if out.Options == nil {
		out.Options = map[string]string{}
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if n.IPAMDriver != "" {
		out.IPAM.Driver = n.IPAMDriver
	}
	if n.Name == "bridge" {
		out.Options = map[string]string{
			"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.enable_icc": "true",
			"com.docker.network.bridge.enable_ip_masquerade": "true", "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
			"com.docker.network.bridge.name": n.Config.Device,
		}
	}
	for _, c := range a.m.Subnets(n) {
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{
			Subnet: c.Subnet, IPRange: c.Range, Gateway: c.Gateway, AuxAddress: c.Aux,
		})
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
			return fault.Invalid("invalid value for filter 'type': must be 'builtin' or 'custom'")
		}
	}
	is := func(term string, match func(string) bool) bool {
		return !f.any(term) || slices.ContainsFunc(f.values(term), match)
	}
	out := []network.Summary{}
	for _, n := range a.m.Networks() {
		kind := map[bool]string{true: "builtin", false: "custom"}[n.Predefined()]
		if (dangling == nil || *dangling == (!n.Predefined() && len(a.m.InNetwork(n)) == 0)) &&
			is("driver", func(v string) bool { return v == n.Driver }) &&
			is("id", func(v string) bool { return strings.HasPrefix(n.ID, v) }) &&
			is("name", func(v string) bool { return strings.Contains(n.Name, v) }) &&
			is("scope", func(v string) bool { return v == "local" }) &&
			is("type", func(v string) bool { return v == kind }) && f.labels("label", n.Labels) {
			out = append(out, network.Summary{Network: a.described(n)})
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
	out := network.Inspect{Network: a.described(n), Containers: map[string]network.EndpointResource{}}
	for _, rec := range a.m.InNetwork(n) {
		for _, at := range rec.Attachments {
			if at.Network == n.ID {
				out.Containers[rec.ID] = resource(rec, at)
			}
		}
	}
	if all := a.m.Subnets(n); len(all) > 0 {
		out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: network.SubnetStatuses{}}}
		for _, c := range all {
			taken, free := a.m.Usage(n, c)
			out.Status.IPAM.Subnets[c.Subnet] = network.SubnetStatus{IPsInUse: taken, DynamicIPsAvailable: free}
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// resource is a container as its network sees it.
func resource(rec runner.Record, a runner.Attachment) network.EndpointResource {
	out := network.EndpointResource{Name: rec.Name, EndpointID: a.EndpointID}
	ep := a.Endpoint
	if ep == nil {
		return out
	}
	out.MacAddress = network.HardwareAddr(ep.MAC)
	if ep.IP.IsValid() {
		out.IPv4Address = netip.PrefixFrom(ep.IP, ep.PrefixLen)
	}
	if ep.IP6.IsValid() {
		out.IPv6Address = netip.PrefixFrom(ep.IP6, ep.PrefixLen6)
	}
	return out
}

func (a *networksAPI) create(w http.ResponseWriter, r *http.Request) error {
	var req network.CreateRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if (req.Scope == "swarm" || req.Driver == "overlay" || req.Ingress) && a.swarm.manages() {
		return errdefs.ErrNotImplemented.WithMessage("overlay networks are not there yet: services have the network of their node")
	}
	rec, err := networkRequest(req)
	if err != nil {
		return err
	}
	rec, err = a.m.CreateNetwork(r.Context(), rec)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, network.CreateResponse{ID: rec.ID})
}

func (a *networksAPI) remove(w http.ResponseWriter, r *http.Request) error {
	if err := a.m.RemoveNetwork(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return noContent(w)
}

// prune removes the networks in which no container is, running or not; the predefined ones stay.
func (a *networksAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r)
	if err != nil {
		return err
	}
	if err := f.only("until", "label", "label!"); err != nil {
		return err
	}
	until, err := untilOf(f)
	if err != nil {
		return err
	}
	if until.IsZero() {
		until = time.Now()
	}
	report := network.PruneReport{NetworksDeleted: []string{}}
	for _, n := range a.m.Networks() {
		if n.Predefined() || !n.Created.Before(until) || !f.labels("label", n.Labels) || f.any("label!") && f.labels("label!", n.Labels) ||
			len(a.m.NetworkUsers(n)) > 0 {
			continue
		}
		err := a.m.RemoveNetwork(r.Context(), n.ID)
		if errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) {
			continue // someone has joined, or it is gone meanwhile
		}
		if err != nil {
			return err
		}
		report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
	}
	a.m.Publish(runner.Event{Type: "network", Action: "prune", Attributes: map[string]string{"reclaimed": "0"}})
	return writeJSON(w, http.StatusOK, report)
}

func (a *networksAPI) connect(w http.ResponseWriter, r *http.Request) error {
	var req network.ConnectRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	at, err := attachmentOf(r.PathValue("id"), req.EndpointConfig)
	if err != nil {
		return err
	}
	if err := a.m.Connect(r.Context(), r.PathValue("id"), req.Container, at); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *networksAPI) disconnect(w http.ResponseWriter, r *http.Request) error {
	var req network.DisconnectRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := a.m.Disconnect(r.Context(), r.PathValue("id"), req.Container, req.Force); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
