package lookup

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

// BlockIO finds the numbers of the devices that limits are about; nil when there are none.
func BlockIO(b spec.Blkio) (*specs.LinuxBlockIO, error) {
	out := &specs.LinuxBlockIO{}
	for _, w := range b.BlkioWeightDevice {
		if w.Weight < 10 || w.Weight > 1000 {
			return nil, fault.Invalid("range of blkio weight is from 10 to 1000")
		}
		major, minor, err := numbers(w.Path)
		if err != nil {
			return nil, err
		}
		d := specs.LinuxWeightDevice{Weight: &w.Weight}
		d.Major, d.Minor = major, minor
		out.WeightDevice = append(out.WeightDevice, d)
	}
	some := len(out.WeightDevice) > 0
	for _, t := range []struct {
		from []spec.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{b.BlkioDeviceReadBps, &out.ThrottleReadBpsDevice}, {b.BlkioDeviceWriteBps, &out.ThrottleWriteBpsDevice},
		{b.BlkioDeviceReadIOps, &out.ThrottleReadIOPSDevice}, {b.BlkioDeviceWriteIOps, &out.ThrottleWriteIOPSDevice},
	} {
		for _, asked := range t.from {
			major, minor, err := numbers(asked.Path)
			if err != nil {
				return nil, err
			}
			d := specs.LinuxThrottleDevice{Rate: asked.Rate}
			d.Major, d.Minor = major, minor
			*t.to, some = append(*t.to, d), true
		}
	}
	if !some {
		return nil, nil
	}
	return out, nil
}

func numbers(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fault.Invalid("%v", fmt.Errorf("stat %s: %w", path, err))
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}
