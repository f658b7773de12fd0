package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/client"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/spec"
)

// Update is what can be changed of a container. Zero values leave what it has.
type Update struct {
	Resources     spec.Resources
	RestartPolicy spec.RestartPolicy
}

// Update changes a container's limits, at once if it runs, and its restart policy, and returns what the user should know.
// Errors: errdefs.ErrInvalidArgument for what can't be, ErrConflict for what does not go with what it has. Nothing is
// changed after an error.
func (m *Manager) Update(ctx context.Context, ref string, u Update) (warnings []string, err error) {
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	c.op.Lock()
	defer c.op.Unlock()
	before := c.record().HostConfig
	after := before
	if err := u.apply(&after); err != nil {
		return nil, fault.Conflict("cannot update container %s: %v", c.id, err)
	}
	if err := spec.Validate(c.record().Config, after); err != nil {
		return nil, err
	}
	if m := after.Memory; m != 0 {
		if dropMemory(&after); after.Memory != m {
			warnings = append(warnings, noMemory.Error().Error())
		}
	}
	if c.record().State.Removing {
		return nil, fault.Conflict("cannot update container %s: container is marked for removal and cannot be \"update\"", c.id)
	}
	if err := c.update(func(r *Record) { r.HostConfig = after }); err != nil {
		return nil, err
	}
	if err := m.limit(ctx, c, after); err != nil {
		back := c.update(func(r *Record) { r.HostConfig = before })
		return nil, errors.Join(fmt.Errorf("cannot update container %s: %w", c.id, err), back)
	}
	m.emit(c.record(), "update")
	return warnings, nil
}

// limit gives the processes of a container that runs its limits.
func (m *Manager) limit(ctx context.Context, c *container, h spec.HostConfig) error {
	r := c.current()
	if r == nil {
		return nil
	}
	machine, err := lookup.Machine(h.Privileged)
	if err != nil {
		return err
	}
	io, err := lookup.BlockIO(h.Blkio)
	if err != nil {
		return err
	}
	return r.task.Update(cache.WithNamespace(ctx), client.WithResources(spec.Limits(h.Resources, machine.SwapLimit, io)))
}

// apply changes what u says, in Docker's words where that can't be.
func (u Update) apply(h *spec.HostConfig) error {
	conflict := func(text string) error { return fault.Conflict("%s", text) }
	n, r := u.Resources, &h.Resources
	swap := r.MemorySwap
	if swap == 0 {
		swap = 2 * r.Memory // as it is kept
	}
	switch {
	case n.NanoCPUs > 0 && r.CPUPeriod > 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case n.NanoCPUs > 0 && r.CPUQuota > 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case n.CPUPeriod > 0 && r.NanoCPUs > 0:
		return conflict("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case n.CPUQuota > 0 && r.NanoCPUs > 0:
		return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case n.Memory > swap && swap >= 0 && n.MemorySwap == 0:
		return conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	case h.AutoRemove && u.RestartPolicy.Name != "" && u.RestartPolicy.Name != "no":
		return conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
	}
	if n.Memory != 0 && r.MemorySwap == 0 && n.MemorySwap == 0 {
		r.MemorySwap = swap // which does not follow the memory any more
	}
	set(&r.BlkioWeight, n.BlkioWeight)
	replace(&r.BlkioWeightDevice, n.BlkioWeightDevice)
	replace(&r.BlkioDeviceReadBps, n.BlkioDeviceReadBps)
	replace(&r.BlkioDeviceWriteBps, n.BlkioDeviceWriteBps)
	replace(&r.BlkioDeviceReadIOps, n.BlkioDeviceReadIOps)
	replace(&r.BlkioDeviceWriteIOps, n.BlkioDeviceWriteIOps)
	set(&r.CPUShares, n.CPUShares)
	set(&r.NanoCPUs, n.NanoCPUs)
	set(&r.CPUPeriod, n.CPUPeriod)
	set(&r.CPUQuota, n.CPUQuota)
	set(&r.CPURealtimePeriod, n.CPURealtimePeriod)
	set(&r.CPURealtimeQuota, n.CPURealtimeQuota)
	set(&r.CpusetCpus, n.CpusetCpus)
	set(&r.CpusetMems, n.CpusetMems)
	set(&r.Memory, n.Memory)
	set(&r.MemorySwap, n.MemorySwap)
	set(&r.MemoryReservation, n.MemoryReservation)
	if p := n.PidsLimit; p != nil {
		r.PidsLimit = new(int64)
		*r.PidsLimit = max(*p, 0)
	}
	if u.RestartPolicy.Name != "" {
		h.RestartPolicy = u.RestartPolicy
	}
	return nil
}

// replace is set of a list.
func replace[T any](list *[]T, by []T) {
	if len(by) > 0 {
		*list = by
	}
}

// set changes a value to one that is given.
func set[T comparable](value *T, to T) {
	var none T
	if to != none {
		*value = to
	}
}
