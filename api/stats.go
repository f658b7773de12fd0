package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/moby/moby/api/types/container"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// statsPause is between two samples, as in Docker.
const statsPause = time.Second

// stats answers GET /containers/{id}/stats: one sample a second, or one that knows the one before, or one alone.
func (c *containersAPI) stats(w http.ResponseWriter, r *http.Request) error {
	stream := r.URL.Query().Get("stream") == "" || flag(r, "stream")
	oneShot := flag(r, "one-shot")
	if stream && oneShot {
		return fault.Invalid("cannot have stream=true and one-shot=true")
	}
	now, err := c.m.Sample(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	var before *container.StatsResponse
	if !stream && !oneShot && now.Metrics != nil {
		first := usage(now, nil)
		before = first
		if now, err = c.later(r.Context(), now.Record.ID); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	for {
		s := usage(now, before)
		if err := enc.Encode(s); err != nil || !stream {
			return nil // the client has gone, or has all
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		before = s
		if now, err = c.later(r.Context(), now.Record.ID); err != nil {
			return nil // the container has gone, or the client
		}
	}
}

func (c *containersAPI) later(ctx context.Context, id string) (runner.Sample, error) {
	select {
	case <-time.After(statsPause):
		return c.m.Sample(ctx, id)
	case <-ctx.Done():
		return runner.Sample{}, context.Cause(ctx)
	}
}

// usage is a sample in the API's words.
func usage(s runner.Sample, before *container.StatsResponse) *container.StatsResponse {
	out := &container.StatsResponse{ID: s.Record.ID, Name: "/" + s.Record.Name, OSType: "linux"}
	if before != nil {
		out.PreRead, out.PreCPUStats = before.Read, before.CPUStats
	}
	if s.Metrics == nil {
		return out
	}
	out.Read = s.Time
	switch m := s.Metrics.(type) {
	case *cgroup1.Metrics:
		usageV1(m, out)
	case *cgroup2.Metrics:
		usageV2(m, out)
	}
	out.CPUStats.SystemUsage, out.CPUStats.OnlineCPUs = uint64(s.System), uint32(s.CPUs)
	if l := out.MemoryStats.Limit; l == 0 || l > s.Memory {
		out.MemoryStats.Limit = s.Memory
	}
	for name, n := range s.Networks {
		if name == "lo" {
			continue
		}
		if out.Networks == nil {
			out.Networks = map[string]container.NetworkStats{}
		}
		out.Networks[name] = container.NetworkStats{
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
		}
	}
	return out
}

func usageV1(m *cgroup1.Metrics, out *container.StatsResponse) {
	if cpu := m.CPU; cpu != nil {
		if u := cpu.Usage; u != nil {
			out.CPUStats.CPUUsage = container.CPUUsage{
				TotalUsage: u.Total, PercpuUsage: u.PerCPU, UsageInKernelmode: u.Kernel, UsageInUsermode: u.User,
			}
		}
		if t := cpu.Throttling; t != nil {
			out.CPUStats.ThrottlingData = container.ThrottlingData{
				Periods: t.Periods, ThrottledPeriods: t.ThrottledPeriods, ThrottledTime: t.ThrottledTime,
			}
		}
	}
	if mem := m.Memory; mem != nil {
		if u := mem.Usage; u != nil {
			out.MemoryStats.Usage, out.MemoryStats.MaxUsage = u.Usage, u.Max
			out.MemoryStats.Failcnt, out.MemoryStats.Limit = u.Failcnt, u.Limit
		}
		out.MemoryStats.Stats = map[string]uint64{
			"cache": mem.Cache, "rss": mem.RSS, "rss_huge": mem.RSSHuge, "mapped_file": mem.MappedFile, "dirty": mem.Dirty,
			"writeback": mem.Writeback, "pgpgin": mem.PgPgIn, "pgpgout": mem.PgPgOut, "pgfault": mem.PgFault,
			"pgmajfault": mem.PgMajFault, "inactive_anon": mem.InactiveAnon, "active_anon": mem.ActiveAnon,
			"inactive_file": mem.InactiveFile, "active_file": mem.ActiveFile, "unevictable": mem.Unevictable,
			"hierarchical_memory_limit": mem.HierarchicalMemoryLimit, "hierarchical_memsw_limit": mem.HierarchicalSwapLimit,
			"total_cache": mem.TotalCache, "total_rss": mem.TotalRSS, "total_rss_huge": mem.TotalRSSHuge,
			"total_mapped_file": mem.TotalMappedFile, "total_dirty": mem.TotalDirty, "total_writeback": mem.TotalWriteback,
			"total_pgpgin": mem.TotalPgPgIn, "total_pgpgout": mem.TotalPgPgOut, "total_pgfault": mem.TotalPgFault,
			"total_pgmajfault": mem.TotalPgMajFault, "total_inactive_anon": mem.TotalInactiveAnon,
			"total_active_anon": mem.TotalActiveAnon, "total_inactive_file": mem.TotalInactiveFile,
			"total_active_file": mem.TotalActiveFile, "total_unevictable": mem.TotalUnevictable,
		}
	}
	if p := m.Pids; p != nil {
		out.PidsStats = container.PidsStats{Current: p.Current, Limit: p.Limit}
	}
	if b := m.Blkio; b != nil {
		out.BlkioStats = container.BlkioStats{
			IoServiceBytesRecursive: entries(b.IoServiceBytesRecursive), IoServicedRecursive: entries(b.IoServicedRecursive),
			IoQueuedRecursive: entries(b.IoQueuedRecursive), IoServiceTimeRecursive: entries(b.IoServiceTimeRecursive),
			IoWaitTimeRecursive: entries(b.IoWaitTimeRecursive), IoMergedRecursive: entries(b.IoMergedRecursive),
			IoTimeRecursive: entries(b.IoTimeRecursive), SectorsRecursive: entries(b.SectorsRecursive),
		}
	}
}

func entries(all []*cgroup1.BlkIOEntry) []container.BlkioStatEntry {
	out := make([]container.BlkioStatEntry, 0, len(all))
	for _, e := range all {
		out = append(out, container.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value})
	}
	return out
}

func usageV2(m *cgroup2.Metrics, out *container.StatsResponse) {
	if cpu := m.CPU; cpu != nil { // microseconds there, nanoseconds here
		out.CPUStats.CPUUsage = container.CPUUsage{
			TotalUsage: cpu.UsageUsec * 1000, UsageInKernelmode: cpu.SystemUsec * 1000, UsageInUsermode: cpu.UserUsec * 1000,
		}
		out.CPUStats.ThrottlingData = container.ThrottlingData{
			Periods: cpu.NrPeriods, ThrottledPeriods: cpu.NrThrottled, ThrottledTime: cpu.ThrottledUsec * 1000,
		}
	}
	if mem := m.Memory; mem != nil {
		out.MemoryStats.Usage, out.MemoryStats.Limit = mem.Usage, mem.UsageLimit
		out.MemoryStats.Stats = map[string]uint64{
			"anon": mem.Anon, "file": mem.File, "kernel_stack": mem.KernelStack, "slab": mem.Slab, "sock": mem.Sock, "shmem": mem.Shmem,
			"file_mapped": mem.FileMapped, "file_dirty": mem.FileDirty, "file_writeback": mem.FileWriteback,
			"anon_thp": mem.AnonThp, "inactive_anon": mem.InactiveAnon, "active_anon": mem.ActiveAnon,
			"inactive_file": mem.InactiveFile, "active_file": mem.ActiveFile, "unevictable": mem.Unevictable,
			"slab_reclaimable": mem.SlabReclaimable, "slab_unreclaimable": mem.SlabUnreclaimable, "pgfault": mem.Pgfault,
			"pgmajfault": mem.Pgmajfault, "pgrefill": mem.Pgrefill, "pgscan": mem.Pgscan, "pgsteal": mem.Pgsteal,
			"pgactivate": mem.Pgactivate, "pgdeactivate": mem.Pgdeactivate, "pglazyfree": mem.Pglazyfree,
			"pglazyfreed": mem.Pglazyfreed, "thp_fault_alloc": mem.ThpFaultAlloc, "thp_collapse_alloc": mem.ThpCollapseAlloc,
		}
		if e := m.MemoryEvents; e != nil {
			out.MemoryStats.Failcnt = e.Oom
		}
	}
	if p := m.Pids; p != nil {
		out.PidsStats = container.PidsStats{Current: p.Current, Limit: p.Limit}
	}
	if io := m.Io; io != nil {
		for _, e := range io.Usage {
			out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive,
				container.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: "read", Value: e.Rbytes},
				container.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: "write", Value: e.Wbytes})
		}
	}
}
