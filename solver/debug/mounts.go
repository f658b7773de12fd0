package debug

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
)

// mounts are the step's, over what it has left. Secrets and agents are among them only when asked
// for, and those that the client does not have are missing.
func (d *debugging) mounts() (all []*pb.Mount, inputs []*worker.WorkerRef, err error) {
	for i, from := range d.Exec.Mounts {
		m := from.CloneVT()
		switch m.MountType {
		case pb.MountType_SECRET, pb.MountType_SSH:
			if !d.asked {
				continue
			}
			if m.SecretOpt != nil {
				m.SecretOpt.Optional = true
			}
			if m.SSHOpt != nil {
				m.SSHOpt.Optional = true
			}
		case pb.MountType_CACHE:
			if m.Input == int64(pb.Empty) {
				break
			}
			if d.kept.caches[i] == "" {
				return nil, nil, d.lost(m)
			}
			// The directory that the step had, whatever it began as.
			m.MountType, m.Input, m.Output, m.CacheOpt = pb.MountType_BIND, int64(pb.Empty), 0, nil
			d.caches[m] = d.kept.caches[i]
		case pb.MountType_BIND:
			ref, ok := d.refs[i]
			if !ok && (isRoot(m) || m.Input != int64(pb.Empty)) {
				return nil, nil, d.lost(m)
			}
			if m.Input = int64(pb.Empty); ok {
				m.Input = int64(len(inputs))
				inputs = append(inputs, &worker.WorkerRef{ImmutableRef: ref, Worker: d.Worker})
			}
		}
		all = append(all, m)
	}
	return all, inputs, nil
}

func (d *debugging) lost(m *pb.Mount) error {
	return errdefs.ErrUnavailable.WithMessage(
		fmt.Sprintf("what step %s had at %s could not be kept; build again to keep it anew", d.Op.Name, m.Dest))
}
