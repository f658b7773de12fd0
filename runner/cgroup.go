package runner

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/check"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/spec"
)

const cgroupRoot = "/sys/fs/cgroup"

// CheckCgroups finds out which limits the kernel can keep.
func CheckCgroups() check.Finding { return checkCgroups(cgroupRoot) }

func checkCgroups(root string) check.Finding {
	const subject = "cgroup"
	version, has := controllers(root)
	var there, lacking []string
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if has(controller) {
			there = append(there, controller)
		} else {
			lacking = append(lacking, controller)
		}
	}
	switch {
	case len(there) == 0 && version == "v1":
		return check.Finding{Subject: subject, Text: "no cgroup controller below " + root, Next: "run: mount -t cgroup2 cgroup2 " + root}
	case slices.Contains(lacking, "memory"):
		return noMemory
	case len(lacking) > 0:
		return check.Finding{
			Subject: subject, Text: "the kernel has no " + strings.Join(lacking, " and no ") + " cgroup, so that such limits have no " +
				"effect",
			Next: "take a kernel with it",
		}
	}
	return check.OK(subject, version+" with "+strings.Join(there, ", "))
}

// noMemory is usual on a Raspberry Pi.
var noMemory = check.Finding{
	Subject: "cgroup", Text: "the kernel has no memory cgroup, so that --memory has no effect",
	Next: "add cgroup_enable=memory to the kernel's command line (Raspberry Pi: /boot/firmware/cmdline.txt) and restart the machine",
}

// dropMemory takes out of a request what the kernel can't keep, as Docker does.
func dropMemory(h *spec.HostConfig) {
	if h.Memory == 0 && h.MemoryReservation == 0 && h.MemorySwap == 0 && h.MemorySwappiness == nil {
		return
	}
	if _, has := controllers(cgroupRoot); !has("memory") {
		h.Memory, h.MemoryReservation, h.MemorySwap, h.MemorySwappiness = 0, 0, 0, nil
	}
}

// Limits says which limits the kernel keeps.
type Limits struct{ Memory, Swap, OomKillDisable, CPU, CPUSet, Pids bool }

// Controllers finds out which limits the kernel keeps.
func Controllers() Limits {
	version, has := controllers(cgroupRoot)
	l := Limits{Memory: has("memory"), CPU: has("cpu"), CPUSet: has("cpuset"), Pids: has("pids")}
	if m, err := lookup.Machine(false); err == nil {
		l.Swap = l.Memory && m.SwapLimit
	}
	l.OomKillDisable = version == "v1" && exists(filepath.Join(cgroupRoot, "memory", "memory.oom_control"))
	return l
}

// Warnings are what `docker info` says of limits that have no effect.
func (l Limits) Warnings() []string {
	out := []string{}
	for _, w := range []struct {
		has  bool
		text string
	}{
		{l.Memory, "WARNING: No memory limit support"}, {!l.Memory || l.Swap, "WARNING: No swap limit support"},
		{l.CPU, "WARNING: No cpu cfs quota support"}, {l.CPUSet, "WARNING: No cpuset support"}, {l.Pids, "WARNING: No pids limit support"},
	} {
		if !w.has {
			out = append(out, w.text)
		}
	}
	return out
}

// controllers are those of the hierarchy, or hierarchies, at root.
func controllers(root string) (version string, has func(controller string) bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "v2", unified(root)
	}
	return "v1", func(controller string) bool { return exists(filepath.Join(root, controller, "cgroup.procs")) }
}

// unified reads the controllers of the one hierarchy.
func unified(root string) func(controller string) bool {
	text, _ := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	all := strings.Fields(string(text))
	return func(controller string) bool { return slices.Contains(all, controller) }
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
