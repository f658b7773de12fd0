package api

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/cluster/allocator"
	gnetwork "github.com/gantry-build/gantry/runner/network"
)

// ofSwarm says whether a client wants a network of the cluster's.
func ofSwarm(req network.CreateRequest) bool {
	return req.Scope == "swarm" || req.Driver == "overlay" || req.Ingress
}

func findNetwork(ctx context.Context, m cluster.Manager, ref string) (*swarmapi.Network, error) {
	return pick("network", ref, func() (*swarmapi.Network, error) {
		got, err := m.GetNetwork(ctx, &swarmapi.GetNetworkRequest{NetworkID: ref})
		if err != nil {
			return nil, err
		}
		return got.Network, nil
	}, func(names, prefixes []string) ([]*swarmapi.Network, error) {
		got, err := m.ListNetworks(ctx, &swarmapi.ListNetworksRequest{
			Filters: &swarmapi.ListNetworksRequest_Filters{Names: names, IDPrefixes: prefixes},
		}, large())
		if err != nil {
			return nil, err
		}
		return got.Networks, nil
	})
}

// networks are the cluster's, but for those that each node has for itself; none where the cluster can't be asked.
func (s *Swarm) networks(ctx context.Context) (all []network.Network) {
	if s == nil {
		return nil
	}
	m, err := s.Cluster.Manager()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := m.ListNetworks(ctx, &swarmapi.ListNetworksRequest{}, large())
	if err != nil {
		return nil
	}
	for _, n := range got.Networks {
		if n.Spec.Annotations.Labels["com.docker.swarm.predefined"] != "true" {
			all = append(all, swarmNetwork(n))
		}
	}
	return all
}

func swarmNetwork(n *swarmapi.Network) network.Network {
	out := convert.BasicNetworkFromGRPC(*n)
	if out.Driver == "" && n.Spec.DriverConfig != nil { // it has no addresses yet
		out.Driver, out.Options = n.Spec.DriverConfig.Name, n.Spec.DriverConfig.Options
	}
	for i, c := range out.IPAM.Config {
		if !c.IPRange.IsValid() {
			out.IPAM.Config[i].IPRange = netip.Prefix{}
		}
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	return out
}

// network finds one of the cluster's by its ID or its name.
func (s *Swarm) network(ctx context.Context, ref string) (network.Network, bool) {
	all := s.networks(ctx)
	for _, match := range []func(network.Network) bool{
		func(n network.Network) bool { return n.ID == ref }, func(n network.Network) bool { return n.Name == ref },
		func(n network.Network) bool { return ref != "" && strings.HasPrefix(n.ID, ref) },
	} {
		if i := slices.IndexFunc(all, match); i >= 0 {
			return all[i], true
		}
	}
	return network.Network{}, false
}

// createNetwork makes one of the cluster's.
func (s *Swarm) createNetwork(ctx context.Context, req network.CreateRequest) (string, error) {
	if s == nil {
		return "", cluster.ErrNoManager
	}
	m, err := s.Cluster.Manager()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := s.checkNetwork(ctx, req); err != nil {
		return "", err
	}
	if req.Driver == "" {
		req.Driver = gnetwork.DriverOverlay
	}
	spec := convert.BasicNetworkCreateToGRPC(req)
	if req.IPAM != nil && len(req.IPAM.Config) == 0 {
		spec.IPAM = nil
	}
	made, err := m.CreateNetwork(ctx, &swarmapi.CreateNetworkRequest{Spec: &spec})
	switch err = fromManager(err); {
	case errdefs.IsAlreadyExists(err) && req.Ingress:
		return "", err // it names the ingress network that is there
	case errdefs.IsAlreadyExists(err) || err != nil && strings.Contains(err.Error(), "name conflicts with an existing object"):
		return "", fault.Conflict("network with name %s already exists", req.Name)
	case err != nil:
		return "", err
	}
	if err = untilAllocated(ctx, m, made.Network.ID); err == nil && req.Ingress {
		err = giveNodesPlaces(ctx, m)
	}
	return made.Network.ID, err
}

// untilAllocated waits until a network has its addresses, so that the next one finds them taken.
func untilAllocated(ctx context.Context, m cluster.Manager, id string) error {
	for {
		n, err := m.GetNetwork(ctx, &swarmapi.GetNetworkRequest{NetworkID: id})
		if err != nil {
			return fromManager(err)
		}
		if n.Network.DriverState != nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("network %s is there, and has got no addresses: %w", id, ctx.Err())
		}
	}
}

// giveNodesPlaces has all nodes get an address in a new ingress network: SwarmKit looks whether a node lacks one when the node
// changes (manager/allocator/network.go, doNodeAlloc), and a node without tasks would not.
func giveNodesPlaces(ctx context.Context, m cluster.Manager) error {
	all, err := m.ListNodes(ctx, &swarmapi.ListNodesRequest{})
	if err != nil {
		return fromManager(err)
	}
	for _, n := range all.Nodes {
		req := &swarmapi.UpdateNodeRequest{NodeID: n.ID, NodeVersion: &n.Meta.Version, Spec: &n.Spec}
		if _, err := m.UpdateNode(ctx, req); err != nil && status.Code(err) != codes.NotFound && !outOfSequence(err) {
			return fromManager(err)
		}
	}
	return nil
}

// outOfSequence says that someone else has changed the object meanwhile.
func outOfSequence(err error) bool { return strings.Contains(err.Error(), "update out of sequence") }

// overlayOptions are those that an overlay network has.
var overlayOptions = []string{"com.docker.network.driver.mtu", "com.docker.network.driver.overlay.vxlanid_list"}

// checkNetwork says what is wrong with a network of the cluster's that a client wants.
func (s *Swarm) checkNetwork(ctx context.Context, req network.CreateRequest) error {
	switch {
	case strings.TrimSpace(req.Name) == "":
		return fault.Invalid("invalid network name: name is empty")
	case slices.Contains([]string{"bridge", "host", "none", "default"}, req.Name):
		return fault.Forbidden("%s is a pre-defined network and cannot be created", req.Name)
	case req.Driver != "" && req.Driver != gnetwork.DriverOverlay:
		return fault.Invalid("networks of a cluster have the driver overlay, not %s", req.Driver)
	case req.EnableIPv4 != nil && !*req.EnableIPv4:
		return fault.Invalid("IPv4 cannot be disabled in a Swarm scoped network")
	case req.ConfigOnly || req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return fault.Invalid("config-only networks are not supported: give each network its own configuration")
	}
	for _, k := range slices.Sorted(maps.Keys(req.Options)) {
		if k == "encrypted" {
			return fault.Invalid("encrypted overlay networks are not there yet: put the nodes on a network that is private, or into a VPN")
		}
		if strings.HasPrefix(k, "com.docker.network.") && !slices.Contains(overlayOptions, k) {
			return fault.Invalid("unsupported option of an overlay network: %s", k)
		}
	}
	return s.checkSubnets(ctx, req.IPAM)
}

// checkSubnets says whether the subnets that are asked for are free, or one for IPv4 is where none is asked for.
func (s *Swarm) checkSubnets(ctx context.Context, asked *network.IPAM) error {
	var config []network.IPAMConfig
	if asked != nil {
		config = asked.Config
	}
	var taken []netip.Prefix
	for _, other := range s.networks(ctx) {
		for _, o := range other.IPAM.Config {
			if !o.Subnet.IsValid() {
				continue
			}
			taken = append(taken, o.Subnet)
			for _, c := range config {
				if c.Subnet.IsValid() && c.Subnet.Overlaps(o.Subnet) {
					return fault.Forbidden("invalid pool request: Pool overlaps with other one on this address space: %s of network %s",
						o.Subnet, other.Name)
				}
			}
		}
	}
	if slices.ContainsFunc(config, func(c network.IPAMConfig) bool { return c.Subnet.Addr().Is4() }) {
		return nil
	}
	m, err := s.Cluster.Manager()
	if err != nil {
		return err
	}
	c, err := theCluster(ctx, m)
	if err != nil {
		return err
	}
	if err := allocator.HasRoom(c.DefaultAddressPool, c.SubnetSize, taken); err != nil {
		return fault.Invalid("%v: give the network one that is free by --subnet, or the cluster more by swarm init "+
			"--default-addr-pool", err)
	}
	return nil
}

// removeNetwork removes one of the cluster's.
func (s *Swarm) removeNetwork(ctx context.Context, id string) error {
	m, err := s.Cluster.Manager()
	if err != nil {
		return err
	}
	_, err = m.RemoveNetwork(ctx, &swarmapi.RemoveNetworkRequest{NetworkID: id})
	err = fromManager(err)
	if errdefs.IsFailedPrecondition(err) {
		return fault.Forbidden("%v", err)
	}
	return err
}

// told adds what this node has been told of a network: the nodes that are in it and, when wanted, its services.
func (s *Swarm) told(out *network.Inspect, verbose bool) {
	if s == nil {
		return
	}
	known, ok := s.Cluster.Topology(out.ID)
	if !ok {
		return
	}
	for _, e := range known.Ends {
		if e.Node != "" && !slices.ContainsFunc(out.Peers, func(p network.PeerInfo) bool { return p.IP == e.At }) {
			out.Peers = append(out.Peers, network.PeerInfo{Name: e.Node, IP: e.At})
		}
	}
	if !verbose {
		return
	}
	out.Services = map[string]network.ServiceInfo{}
	for _, service := range known.Services {
		info := network.ServiceInfo{Ports: []string{}, Tasks: []network.Task{}}
		if len(service.VIP) > 0 {
			info.VIP = service.VIP[0]
		}
		for _, p := range service.Ports {
			info.Ports = append(info.Ports, fmt.Sprintf("Target: %d, Publish: %d", p.Target, p.Published))
		}
		for _, t := range service.Tasks {
			task := network.Task{Name: t.Name, Info: map[string]string{"Host IP": t.At.String()}}
			if len(t.Addrs) > 0 {
				task.EndpointIP = t.Addrs[0]
			}
			info.Tasks = append(info.Tasks, task)
		}
		out.Services[service.Name] = info
	}
}
