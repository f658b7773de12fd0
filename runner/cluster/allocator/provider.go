// Package allocator gives a cluster's networks, services, tasks and nodes their addresses. It is SwarmKit's network provider
// (manager/allocator/networkallocator): its leader asks, and keeps in Raft what it was told; a new leader tells all of that to
// a new allocator first.
package allocator

import (
	"fmt"
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
	var err error
	if a.ranges, err = ranges(c.DefaultAddrPool, c.SubnetSize); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return a, nil
}

// ranges are from which subnets are chosen, by a cluster's pools and size of a subnet; those that are there without any. SwarmKit's
// first manager names the same pools twice, as its own and as the cluster's (manager/manager.go, becomeLeader).
func ranges(pools []string, subnetSize uint32) (all []ipam.Range, err error) {
	size := defaults[0].Size
	if subnetSize > 0 {
		size = int(subnetSize)
	}
	for _, p := range pools {
		base, err := netip.ParsePrefix(p)
		if err != nil {
			return nil, fmt.Errorf("address pool %q: %w", p, err)
		}
		if r := (ipam.Range{Base: base, Size: size}); !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return defaults, nil
	}
	return all, ipam.CheckRanges(all)
}

// HasRoom tells by its error whether a cluster's pools have a subnet beside those that are taken.
func HasRoom(pools []string, subnetSize uint32, taken []netip.Prefix) error {
	all, err := ranges(pools, subnetSize)
	if err == nil {
		_, err = ipam.Choose(all, taken)
	}
	return err
}
