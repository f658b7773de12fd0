package lookup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

// CDI finds devices that are described by files of the Container Device Interface (its SPEC.md, v1.1), below dirs. It is
// safe for concurrent use.
type CDI struct{ Dirs []string }

func (c CDI) open() (*cdi.Cache, error) {
	return cdi.NewCache(cdi.WithSpecDirs(c.Dirs...), cdi.WithAutoRefresh(false))
}

// Devices lists what can be asked for: VENDOR/CLASS=NAME.
func (c CDI) Devices() []string {
	cache, err := c.open()
	if err != nil {
		return nil
	}
	return cache.ListDevices()
}

// Inject puts the devices that were asked for into a specification. errdefs.ErrInvalidArgument when there is no such device.
func (c CDI) Inject(s *specs.Spec, asked []spec.DeviceRequest) error {
	if len(asked) == 0 {
		return nil
	}
	cache, err := c.open()
	if err != nil {
		return fmt.Errorf("reading what devices there are (%s): %w", strings.Join(c.Dirs, ", "), err)
	}
	var names []string
	for _, r := range asked {
		n, err := wanted(r, cache.ListDevices())
		if err != nil {
			return err
		}
		names = append(names, n...)
	}
	if _, err := cache.InjectDevices(s, names...); err != nil {
		return fault.Invalid("CDI device injection failed: %v", err)
	}
	return nil
}

// wanted are the names that a request means: by themselves, or as --gpus has them.
func wanted(r spec.DeviceRequest, have []string) ([]string, error) {
	if r.Driver == "cdi" {
		return r.DeviceIDs, nil
	}
	gpu := slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") })
	for _, vendor := range []string{"nvidia", "amd"} {
		class := vendor + ".com/gpu="
		here := slices.ContainsFunc(have, func(d string) bool { return strings.HasPrefix(d, class) })
		if !here || !gpu || r.Driver != "" && r.Driver != vendor {
			continue
		}
		var names []string
		for _, id := range r.DeviceIDs {
			names = append(names, class+id)
		}
		switch {
		case len(names) > 0:
		case r.Count < 0:
			names = []string{class + "all"}
		default:
			for n := range r.Count {
				names = append(names, class+strconv.Itoa(n))
			}
		}
		return names, nil
	}
	return nil, fault.Invalid("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
}
