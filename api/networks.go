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
	"github.com/gantry-build/gantry/runner/cluster"
	gnetwork "github.com/gantry-build/gantry/runner/network"
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
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: networkScope(n), Driver: n.Driver,
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

// networkScope is where a network is known.
func networkScope(n runner.NetworkRecord) string {
	if n.Driver == gnetwork.DriverOverlay {
		return "swarm"
	}
	return "local"
}

// namesNetwork says whether a reference is a network's ID or its name, and not only the beginning of its ID.
func namesNetwork(id, name, ref string) bool { return id == ref || name == ref }

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
	add := func(n network.Network, builtin, unused bool) {
		kind := map[bool]string{true: "builtin", false: "custom"}[builtin]
		if (dangling == nil || *dangling == (!builtin && unused)) &&
			is("driver", func(v string) bool { return v == n.Driver }) &&
			is("id", func(v string) bool { return strings.HasPrefix(n.ID, v) }) &&
			is("name", func(v string) bool { return strings.Contains(n.Name, v) }) &&
			is("scope", func(v string) bool { return v == n.Scope }) &&
			is("type", func(v string) bool { return v == kind }) && f.labels("label", n.Labels) {
			out = append(out, network.Summary{Network: n})
		}
	}
	ofCluster := a.swarm.networks(r.Context())
	for _, n := range ofCluster {
		add(n, false, false)
	}
	for _, n := range a.m.Networks() {
		if n.Driver != gnetwork.DriverOverlay || len(ofCluster) == 0 { // else the cluster has said which there are
			add(a.described(n), n.Predefined(), len(a.m.InNetwork(n)) == 0)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (a *networksAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	verbose := false
	if v := r.URL.Query().Get("verbose"); v != "" {
		var err error
		if verbose, err = strconv.ParseBool(v); err != nil {
			return fault.Invalid("invalid value for verbose: %s", v)
		}
	}
	ref, scope := r.PathValue("id"), r.URL.Query().Get("scope")
	n, err := a.m.NetworkOf(ref)
	local := err == nil && (scope == "" || scope == networkScope(n))
	found, ok := a.swarm.network(r.Context(), ref)
	ok = ok && scope != "local"
	switch {
	case ok && (!local || n.ID != found.ID && namesNetwork(found.ID, found.Name, ref) && !namesNetwork(n.ID, n.Name, ref)):
		return writeJSON(w, http.StatusOK, network.Inspect{Network: found, Containers: map[string]network.EndpointResource{}})
	case !local && err == nil:
		return fault.NotFound("network %s not found", ref)
	case err != nil:
		return err
	}
	out := network.Inspect{Network: a.described(n), Containers: map[string]network.EndpointResource{}}
	if ok && found.ID == n.ID {
		out.Network = found
	}
	if n.Driver == gnetwork.DriverOverlay {
		a.swarm.told(&out, verbose)
	}
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
	if ofSwarm(req) {
		id, err := a.swarm.createNetwork(r.Context(), req)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusCreated, network.CreateResponse{ID: id})
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
	ref := r.PathValue("id")
	n, err := a.m.NetworkOf(ref)
	found, ok := a.swarm.network(r.Context(), ref)
	if ok && (err != nil || n.ID == found.ID || namesNetwork(found.ID, found.Name, ref) && !namesNetwork(n.ID, n.Name, ref)) {
		if err := a.swarm.removeNetwork(r.Context(), found.ID); err != nil {
			return err
		}
		return noContent(w)
	}
	if err == nil && n.Driver == gnetwork.DriverOverlay {
		return cluster.ErrWorker
	}
	if err := a.m.RemoveNetwork(r.Context(), ref); err != nil {
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
		if n.Predefined() || n.Driver == gnetwork.DriverOverlay || !n.Created.Before(until) || !f.labels("label", n.Labels) ||
			f.any("label!") && f.labels("label!", n.Labels) ||
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
	for _, n := range a.swarm.networks(r.Context()) {
		if n.Ingress || !n.Created.Before(until) || !f.labels("label", n.Labels) || f.any("label!") && f.labels("label!", n.Labels) {
			continue
		}
		if err := a.swarm.removeNetwork(r.Context(), n.ID); err == nil { // one that is used stays
			report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
		}
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
