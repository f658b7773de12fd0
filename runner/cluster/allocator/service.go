package allocator

import (
	"slices"

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/allocator/networkallocator"
)

// wanted are the networks on which a service is to have a virtual address: those of its tasks, and the one by which the
// cluster's published ports come in, which SwarmKit has put among the service's addresses already.
func (a *allocator) wanted(s *api.Service) (ids []string) {
	if s.Spec.Endpoint != nil && s.Spec.Endpoint.Mode == api.ResolutionModeDNSRoundRobin {
		return nil
	}
	asked := s.Spec.Task.Networks
	if len(asked) == 0 {
		asked = s.Spec.Networks
	}
	for _, c := range asked {
		if a.overlay(c.Target) && !slices.Contains(ids, c.Target) {
			ids = append(ids, c.Target)
		}
	}
	if s.Endpoint == nil || s.Spec.Endpoint == nil {
		return ids
	}
	through := slices.ContainsFunc(s.Spec.Endpoint.Ports, func(p *api.PortConfig) bool { return p.PublishMode == api.PublishModeIngress })
	for _, v := range s.Endpoint.VirtualIPs {
		if through && a.networks[v.NetworkID] != nil && a.ingress(v.NetworkID, asked) && !slices.Contains(ids, v.NetworkID) {
			ids = append(ids, v.NetworkID)
		}
	}
	return ids
}

// ingress tells whether an address of a service is on a network that its tasks have not asked for.
func (a *allocator) ingress(id string, asked []*api.NetworkAttachmentConfig) bool {
	return !slices.ContainsFunc(asked, func(c *api.NetworkAttachmentConfig) bool { return c.Target == id })
}

// IsServiceAllocated implements networkallocator.NetworkAllocator.
func (a *allocator) IsServiceAllocated(s *api.Service, _ ...func(*networkallocator.ServiceAllocationOpts)) bool {
	wanted := a.wanted(s)
	if s.Endpoint == nil {
		return len(wanted) == 0
	}
	if len(s.Endpoint.VirtualIPs) != len(wanted) || len(wanted) > 0 && !a.services[s.ID] {
		return false
	}
	return !slices.ContainsFunc(s.Endpoint.VirtualIPs, func(v *api.Endpoint_VirtualIP) bool {
		return v.Addr == "" || !slices.Contains(wanted, v.NetworkID)
	})
}

// AllocateService implements networkallocator.NetworkAllocator: it has an address on each network where it should, and keeps
// those that it has.
func (a *allocator) AllocateService(s *api.Service) error {
	if s.Endpoint == nil {
		s.Endpoint = &api.Endpoint{}
	}
	s.Endpoint.Spec = s.Spec.Endpoint.Copy()
	ours := a.services[s.ID]
	had := map[string]string{}
	for _, v := range s.Endpoint.VirtualIPs {
		had[v.NetworkID] = v.Addr
	}
	wanted := a.wanted(s)
	if ours {
		for id, addr := range had {
			if !slices.Contains(wanted, id) {
				a.free(id, s.ID, []string{addr})
			}
		}
	}
	var all []*api.Endpoint_VirtualIP
	for _, id := range wanted {
		addr := had[id]
		if addr == "" || !ours {
			got, err := a.take(id, s.ID, []string{addr})
			if err != nil {
				return err
			}
			addr = got[0]
		}
		all = append(all, &api.Endpoint_VirtualIP{NetworkID: id, Addr: addr})
	}
	s.Endpoint.VirtualIPs = all
	a.services[s.ID] = len(all) > 0
	return nil
}

// DeallocateService implements networkallocator.NetworkAllocator.
func (a *allocator) DeallocateService(s *api.Service) error {
	if s.Endpoint != nil && a.services[s.ID] {
		for _, v := range s.Endpoint.VirtualIPs {
			a.free(v.NetworkID, s.ID, []string{v.Addr})
		}
		s.Endpoint.VirtualIPs = nil
	}
	delete(a.services, s.ID)
	return nil
}
