package placement

import (
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/constraint"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/internal/fault"
)

// Fit are the platforms for which an image has to be so that all active nodes that meet the constraints run it natively, one for each
// kind of node, in order. errdefs.ErrInvalidArgument for what is no constraint.
func Fit(nodes []*api.Node, constraints []string) (all []string, err error) {
	wanted, err := constraint.Parse(constraints)
	if err != nil {
		return nil, fault.Invalid("constraint %s: %v", strings.Join(constraints, ", "), err)
	}
	for _, n := range nodes {
		if n.Spec.Availability != api.NodeAvailabilityActive || !constraint.NodeMatches(wanted, n) {
			continue
		}
		if p := ownOf(n.Description); p != "" && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all, nil
}

// ownOf is the platform of a node's machine: of those that it runs natively the one of its kernel, else the first.
func ownOf(d *api.NodeDescription) string {
	native := of(Native, d)
	for _, p := range native {
		if d.Platform != nil && runs([]ocispec.Platform{p}, []ocispec.Platform{toOCI(*d.Platform)}) {
			return platforms.Format(toOCI(*d.Platform))
		}
	}
	if len(native) == 0 {
		return ""
	}
	return platforms.Format(native[0])
}
