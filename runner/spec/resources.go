package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/internal/fault"
)

const cfsPeriod = 100_000 // microseconds; the kernel's default

// resources are the limits that the container's cgroup enforces.
func resources(in Input) (*specs.LinuxResources, error) {
	rules, err := deviceRules(in.Host.DeviceCgroupRules)
	if err != nil {
		return nil, err
	}
	r := Limits(in.Host.Resources, in.Machine.SwapLimit, in.BlockIO)
	r.Devices = append(deviceCgroup(in), rules...)
	return r, nil
}

// Limits are the resources of a container that can be changed while it runs. swap says whether the kernel limits it; io
// are those about single block devices, nil: none.
func Limits(res Resources, swap bool, io *specs.LinuxBlockIO) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: cpu(res), Memory: memory(res, swap)}
	if p := res.PidsLimit; p != nil {
		limit := *p
		if limit <= 0 {
			limit = -1 // none
		}
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	r.BlockIO = io
	if w := res.BlkioWeight; w != 0 {
		if io == nil {
			r.BlockIO = &specs.LinuxBlockIO{}
		}
		r.BlockIO.Weight = &w
	}
	return r
}

func cpu(r Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		c.Shares = ptr(uint64(r.CPUShares))
	}
	switch {
	case r.NanoCPUs > 0:
		c.Period, c.Quota = ptr(uint64(cfsPeriod)), ptr(r.NanoCPUs*cfsPeriod/1e9)
	default:
		c.Period, c.Quota = positive(uint64(max(r.CPUPeriod, 0))), positive(r.CPUQuota)
		if r.CPUQuota < 0 {
			c.Quota = ptr(int64(-1)) // none
		}
	}
	c.RealtimePeriod, c.RealtimeRuntime = positive(uint64(max(r.CPURealtimePeriod, 0))), positive(r.CPURealtimeQuota)
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

// memory follows Docker: without a swap limit of its own a container may swap as much as its memory.
func memory(r Resources, swap bool) *specs.LinuxMemory {
	m := specs.LinuxMemory{Limit: positive(r.Memory), Reservation: positive(r.MemoryReservation)}
	switch {
	case !swap:
	case r.MemorySwap != 0:
		m.Swap = ptr(r.MemorySwap)
	case r.Memory > 0:
		m.Swap = ptr(2 * r.Memory)
	}
	if s := r.MemorySwappiness; s != nil && *s >= 0 {
		m.Swappiness = ptr(uint64(*s))
	}
	if d := r.OomKillDisable; d != nil && *d {
		m.DisableOOMKiller = ptr(true)
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

func ptr[T any](v T) *T { return &v }

func positive[T int64 | uint64](v T) *T {
	if v <= 0 {
		return nil
	}
	return &v
}

// rlimits translates Docker's names to those of setrlimit(2).
func rlimits(limits []Ulimit) ([]specs.POSIXRlimit, error) {
	var out []specs.POSIXRlimit
	for _, l := range limits {
		if _, err := (&units.Ulimit{Name: l.Name}).GetRlimit(); err != nil {
			return nil, fault.Invalid("invalid ulimit type: %s", l.Name)
		}
		if l.Hard >= 0 && (l.Soft > l.Hard || l.Soft < 0) {
			return nil, fault.Invalid("ulimit %s: soft limit must be less than or equal to hard limit: %d > %d", l.Name, l.Soft, l.Hard)
		}
		out = append(out, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(l.Name), Hard: uint64(l.Hard), Soft: uint64(l.Soft), // -1 is RLIM_INFINITY
		})
	}
	return out, nil
}

// devices are the nodes to create in /dev besides runc's own.
func devices(in Input) []specs.LinuxDevice {
	if in.Host.Privileged {
		return append(slices.Clone(in.Machine.Devices), in.Devices...)
	}
	return in.Devices
}

// deviceCgroup forbids everything that was not asked for; runc adds null, zero, random, tty, ptmx.
func deviceCgroup(in Input) []specs.LinuxDeviceCgroup {
	if in.Host.Privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Devices {
		rules = append(rules, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: ptr(d.Major), Minor: ptr(d.Minor), Access: access(in.Host.Devices, d.Path),
		})
	}
	return rules
}

func access(asked []Device, path string) string {
	for _, d := range asked {
		in := d.PathInContainer
		if in == "" {
			in = d.PathOnHost
		}
		if (in == path || strings.HasPrefix(path, in+"/")) && d.CgroupPermissions != "" {
			return d.CgroupPermissions
		}
	}
	return "rwm"
}

// deviceRules parses --device-cgroup-rule: "c 1:3 rwm", "b *:* r".
func deviceRules(rules []string) ([]specs.LinuxDeviceCgroup, error) {
	var out []specs.LinuxDeviceCgroup
	for _, rule := range rules {
		var typ, numbers, perm string
		if n, _ := fmt.Sscan(rule, &typ, &numbers, &perm); n != 3 || !strings.Contains("abc", typ) || len(typ) != 1 {
			return nil, fault.Invalid("invalid device cgroup rule format: '%s'", rule)
		}
		a, b, _ := strings.Cut(numbers, ":")
		major, err1 := deviceNumber(a)
		minor, err2 := deviceNumber(b)
		if err1 != nil || err2 != nil || strings.Trim(perm, "rwm") != "" {
			return nil, fault.Invalid("invalid device cgroup rule format: '%s'", rule)
		}
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: typ, Major: major, Minor: minor, Access: perm})
	}
	return out, nil
}

func deviceNumber(s string) (*int64, error) {
	if s == "*" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return ptr(int64(n)), err
}
