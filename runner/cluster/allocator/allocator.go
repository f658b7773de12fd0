package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

// numberOption is where a network's VXLAN number is kept, and firstNumber the lowest of them, as with Docker.
const (
	numberOption = "com.docker.network.driver.overlay.vxlanid_list"
	firstNumber  = 4097
)

// allocator implements networkallocator.NetworkAllocator. SwarmKit calls it from one goroutine.
type allocator struct {
	ranges   []ipam.Range
	networks map[string]*network
	numbers  map[uint32]bool // of VXLANs

	// Whose addresses are taken here. Another's are those that a leader before has given.
	services, tasks map[string]bool
	nodes           map[[2]string]bool // node and network
}

// network is what is handed out of one; nil pools are a local one's.
type network struct {
	pools  []*ipam.Pool
	number uint32
}

// IsAllocated implements networkallocator.NetworkAllocator.
func (a *allocator) IsAllocated(n *api.Network) bool { return a.networks[n.ID] != nil }

// Allocate implements networkallocator.NetworkAllocator. What a leader before has given stays.
func (a *allocator) Allocate(n *api.Network) error {
	driver := Overlay
	if d := n.Spec.DriverConfig; d != nil && d.Name != "" {
		driver = d.Name
	}
	if driver != Overlay {
		n.DriverState, n.IPAM = &api.Driver{Name: driver}, &api.IPAMOptions{Driver: &api.Driver{}}
		a.networks[n.ID] = &network{}
		return nil
	}
	given := n.IPAM
	if given == nil || len(given.Configs) == 0 {
		given = n.Spec.IPAM
	}
	made := &network{}
	options := &api.IPAMOptions{Driver: &api.Driver{Name: "default"}}
	for _, c := range a.subnets(given, n) {
		pool, err := a.pool(c)
		if err != nil {
			return err
		}
		made.pools = append(made.pools, pool)
		family := api.IPAMConfig_IPV4
		if pool.Subnet.Addr().Is6() {
			family = api.IPAMConfig_IPV6
		}
		options.Configs = append(options.Configs, &api.IPAMConfig{
			Family: family, Subnet: pool.Subnet.String(), Gateway: pool.Gateway.String(), Range: c.Range, Reserved: c.Reserved,
		})
	}
	made.number = a.numberOf(n)
	a.numbers[made.number], a.networks[n.ID] = true, made
	n.IPAM = options
	n.DriverState = &api.Driver{Name: driver, Options: map[string]string{numberOption: fmt.Sprint(made.number)}}
	return nil
}

// subnets are those that a network is to have; one of ours, of each family that it speaks, when nothing is said.
func (a *allocator) subnets(given *api.IPAMOptions, n *api.Network) (all []*api.IPAMConfig) {
	has := map[bool]bool{}
	if given != nil {
		all = given.Configs
	}
	for _, c := range all {
		has[!strings.Contains(c.Subnet, ":")] = true
	}
	if !has[true] {
		all = append([]*api.IPAMConfig{{}}, all...)
	}
	if (n.Spec.Ipv6Enabled || n.Spec.Ingress) && !has[false] { // ports are published for both families
		if own, err := ipam.Choose([]ipam.Range{ipam.UniqueLocal(n.ID)}, nil); err == nil {
			all = append(slices.Clone(all), &api.IPAMConfig{Subnet: own.String()})
		}
	}
	return all
}

func (a *allocator) pool(c *api.IPAMConfig) (*ipam.Pool, error) {
	var taken []netip.Prefix
	for _, other := range a.networks {
		for _, p := range other.pools {
			taken = append(taken, p.Subnet)
		}
	}
	var asked ipam.Config
	var err error
	if c.Subnet == "" {
		asked.Subnet, err = ipam.Choose(a.ranges, taken)
	} else {
		asked.Subnet, err = netip.ParsePrefix(c.Subnet)
	}
	if err == nil && c.Range != "" {
		asked.Range, err = netip.ParsePrefix(c.Range)
	}
	if err == nil && c.Gateway != "" {
		asked.Gateway, err = netip.ParseAddr(c.Gateway)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range taken {
		if p.Overlaps(asked.Subnet) {
			return nil, fmt.Errorf("subnet %s overlaps %s of another network of the cluster", asked.Subnet, p)
		}
	}
	asked.Aux = map[string]netip.Addr{}
	for name, text := range c.Reserved {
		if asked.Aux[name], err = netip.ParseAddr(text); err != nil {
			return nil, err
		}
	}
	return ipam.New(asked)
}

// NumberOf is the VXLAN number that a network has been given; 0 when it has none yet.
func NumberOf(n *api.Network) uint32 {
	if n.DriverState == nil {
		return 0
	}
	number, _ := strconv.ParseUint(n.DriverState.Options[numberOption], 10, 24)
	return uint32(number)
}

func (a *allocator) numberOf(n *api.Network) uint32 {
	if given := NumberOf(n); given > 0 {
		return given
	}
	number := uint32(firstNumber)
	for a.numbers[number] {
		number++
	}
	return number
}

// Deallocate implements networkallocator.NetworkAllocator.
func (a *allocator) Deallocate(n *api.Network) error {
	if made := a.networks[n.ID]; made != nil {
		delete(a.numbers, made.number)
	}
	delete(a.networks, n.ID)
	return nil
}

// take hands out an address of each of a network's subnets, those that are given when they are.
func (a *allocator) take(networkID, owner string, given []string) ([]string, error) {
	n := a.networks[networkID]
	if n == nil {
		return nil, fmt.Errorf("network %s has no addresses yet", networkID)
	}
	var all []string
	for _, pool := range n.pools {
		addr, ok := within(pool.Subnet, given)
		var err error
		if ok {
			err = pool.Take(addr, owner)
		} else {
			addr, err = pool.Next(owner)
		}
		if err != nil {
			a.free(networkID, owner, all)
			return nil, err
		}
		all = append(all, netip.PrefixFrom(addr, pool.Subnet.Bits()).String())
	}
	return all, nil
}

// within is the address among some that a subnet has.
func within(subnet netip.Prefix, all []string) (netip.Addr, bool) {
	for _, text := range all {
		addr, err := netip.ParseAddr(text)
		if p, perr := netip.ParsePrefix(text); perr == nil {
			addr, err = p.Addr(), nil
		}
		if err == nil && subnet.Contains(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (a *allocator) free(networkID, owner string, all []string) {
	n := a.networks[networkID]
	if n == nil {
		return
	}
	for _, pool := range n.pools {
		if addr, ok := within(pool.Subnet, all); ok {
			pool.Free(addr, owner)
		}
	}
}

// overlay tells whether a network has addresses of the cluster's. One that is not known yet may have.
func (a *allocator) overlay(id string) bool {
	n := a.networks[id]
	return n == nil || len(n.pools) > 0
}

// AllocateTask implements networkallocator.NetworkAllocator.
func (a *allocator) AllocateTask(t *api.Task) error {
	for i, at := range t.Networks {
		if err := a.attach(at, t.ID); err != nil {
			for _, done := range t.Networks[:i] {
				a.free(done.Network.ID, t.ID, done.Addresses)
			}
			return err
		}
	}
	a.tasks[t.ID] = len(t.Networks) > 0
	return nil
}

func (a *allocator) attach(at *api.NetworkAttachment, owner string) (err error) {
	addresses, err := a.take(at.Network.ID, owner, at.Addresses)
	if err == nil {
		at.Addresses = addresses
	}
	return err
}

// IsTaskAllocated implements networkallocator.NetworkAllocator. It is false for a task without networks, which SwarmKit
// otherwise gives no ports.
func (a *allocator) IsTaskAllocated(t *api.Task) bool { return a.tasks[t.ID] }

// DeallocateTask implements networkallocator.NetworkAllocator.
func (a *allocator) DeallocateTask(t *api.Task) error {
	for _, at := range t.Networks {
		a.free(at.Network.ID, t.ID, at.Addresses)
		at.Addresses = nil
	}
	delete(a.tasks, t.ID)
	return nil
}

// AllocateAttachment implements networkallocator.NetworkAllocator: a node's own address on a network.
func (a *allocator) AllocateAttachment(n *api.Node, at *api.NetworkAttachment) error {
	if err := a.attach(at, n.ID); err != nil {
		return err
	}
	a.nodes[[2]string{n.ID, at.Network.ID}] = true
	return nil
}

// IsAttachmentAllocated implements networkallocator.NetworkAllocator.
func (a *allocator) IsAttachmentAllocated(n *api.Node, at *api.NetworkAttachment) bool {
	return a.nodes[[2]string{n.ID, at.Network.ID}]
}

// DeallocateAttachment implements networkallocator.NetworkAllocator.
func (a *allocator) DeallocateAttachment(n *api.Node, at *api.NetworkAttachment) error {
	a.free(at.Network.ID, n.ID, at.Addresses)
	at.Addresses = nil
	delete(a.nodes, [2]string{n.ID, at.Network.ID})
	return nil
}

var _ networkallocator.NetworkAllocator = (*allocator)(nil)
