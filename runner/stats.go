package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/typeurl/v2"
	"github.com/prometheus/procfs"

	"github.com/gantry-build/gantry/cache"
)

// Sample is what a container has used up to a moment.
type Sample struct {
	Record   Record
	Time     time.Time
	Metrics  any                          // *stats.Metrics of containerd's cgroup1 or cgroup2; nil when it does not run
	Networks map[string]procfs.NetDevLine // by interface; none when it shares the host's
	System   time.Duration                // what all of the machine's CPUs have worked since boot
	CPUs     int
	Memory   uint64 // of the machine, in bytes
}

// Sample reads what a container has used.
func (m *Manager) Sample(ctx context.Context, ref string) (s Sample, err error) {
	c, err := m.find(ref)
	if err != nil {
		return s, err
	}
	s = Sample{Record: c.record(), Time: time.Now().UTC()}
	r := c.current()
	if r == nil {
		return s, nil
	}
	metric, err := r.task.Metrics(cache.WithNamespace(ctx))
	if err != nil {
		return s, fmt.Errorf("what container %s uses: %w", c.id, err)
	}
	if s.Metrics, err = typeurl.UnmarshalAny(metric.Data); err != nil {
		return s, fmt.Errorf("what container %s uses: %w", c.id, err)
	}
	if s.Record.HostConfig.NetworkMode != "host" {
		if p, err := procfs.NewProc(int(r.task.Pid())); err == nil {
			if lines, err := p.NetDev(); err == nil { // else it has just ended
				s.Networks = lines
			}
		}
	}
	return s, s.machine()
}

// machine fills in what the machine has and has done.
func (s *Sample) machine() error {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return err
	}
	st, err := fs.Stat()
	if err != nil {
		return err
	}
	t := st.CPUTotal
	s.System = time.Duration((t.User + t.Nice + t.System + t.Idle + t.Iowait + t.IRQ + t.SoftIRQ + t.Steal) * float64(time.Second))
	s.CPUs = len(st.CPU)
	mem, err := fs.Meminfo()
	if err == nil && mem.MemTotalBytes != nil {
		s.Memory = *mem.MemTotalBytes
	}
	return err
}
