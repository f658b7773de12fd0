// Package allocator gives a cluster's networks, services, tasks and nodes their addresses. It is SwarmKit's network provider
// (manager/allocator/networkallocator): its leader asks, and keeps in Raft what it was told; a new leader tells all of that to
// a new allocator first.
package allocator

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Overlay is the driver of networks over all nodes.
const Overlay = "overlay"

// local are the drivers whose networks each node has for itself.
var local = []string{"bridge", "host", "macvlan", "ipvlan"}

// defaults are the block and the size of the subnets where nothing is said. Docker's are a /24, which is full with 252 tasks.
var defaults = []ipam.Range{{Base: netip.MustParsePrefix("10.0.0.0/8"), Size: 20}}

// Provider implements networkallocator.Provider.
type Provider struct{}

// PredefinedNetworks implements networkallocator.Provider.
func (Provider) PredefinedNetworks() []networkallocator.PredefinedNetworkData {
	return []networkallocator.PredefinedNetworkData{{Name: "bridge", Driver: "bridge"}, {Name: "host", Driver: "host"}}
}

// SetDefaultVXLANUDPPort implements networkallocator.Provider.
func (Provider) SetDefaultVXLANUDPPort(uint32) error { return nil }

// ValidateIPAMDriver implements networkallocator.DriverValidator.
func (Provider) ValidateIPAMDriver(d *api.Driver) error { return known(d, "default") }

// ValidateNetworkDriver implements networkallocator.DriverValidator.
func (Provider) ValidateNetworkDriver(d *api.Driver) error {
	return known(d, append(local, Overlay)...)
}

// ValidateIngressNetworkDriver implements networkallocator.DriverValidator.
func (Provider) ValidateIngressNetworkDriver(d *api.Driver) error { return known(d, Overlay) }

func known(d *api.Driver, names ...string) error {
	if d == nil || d.Name == "" || slices.Contains(names, d.Name) {
		return nil
	}
	return status.Errorf(codes.InvalidArgument, "driver %q is not there: use %s", d.Name, strings.Join(names, ", "))
}

// NewAllocator implements networkallocator.Provider.
func (Provider) NewAllocator(c *networkallocator.Config) (networkallocator.NetworkAllocator, error) {
	a := &allocator{
		ranges: defaults, networks: map[string]*network{}, numbers: map[uint32]bool{},
		services: map[string]bool{}, tasks: map[string]bool{}, nodes: map[[2]string]bool{},
	}
	if c == nil {
		return a, nil
	}
	size := defaults[0].Size
	if c.SubnetSize > 0 {
		size = int(c.SubnetSize)
	}
	var asked []ipam.Range
	for _, p := range c.DefaultAddrPool {
		base, err := netip.ParsePrefix(p)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "address pool %q: %v", p, err)
		}
		asked = append(asked, ipam.Range{Base: base, Size: size})
	}
	if err := ipam.CheckRanges(asked); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(asked) > 0 {
		a.ranges = asked
	}
	return a, nil
}
