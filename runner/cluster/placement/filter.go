package placement

import (
	"fmt"
	"slices"
	"strings"
	_ "unsafe" // for go:linkname

	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/scheduler"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// stock are the filters of SwarmKit's scheduler, which has no way to be given others (manager/scheduler/pipeline.go).
//
//go:linkname stock github.com/moby/swarmkit/v2/manager/scheduler.defaultFilters
var stock []scheduler.Filter

func init() { stock = exchanged(stock) }

// exchanged are filters with ours, which is the last, in the place of the platform filter: it is to see only nodes on which
// nothing else is wrong.
func exchanged(all []scheduler.Filter) (out []scheduler.Filter) {
	for _, f := range all {
		if _, is := f.(*scheduler.PlatformFilter); !is {
			out = append(out, f)
		}
	}
	return append(out, &filter{alone: map[string]bool{}})
}

// filter checks nodes for one task after the other. A process has one scheduler, which is one goroutine.
type filter struct {
	task    string // its service, and which version of it
	image   []ocispec.Platform
	emulate bool

	native bool     // a node that runs the image natively was seen for this task
	others []string // nodes that do not, for Explain

	// alone are the services for which the last pass over the nodes has seen no native one: their next pass, which SwarmKit
	// begins by itself as the task still waits, takes emulating ones.
	alone map[string]bool
}

// SetTask implements scheduler.Filter.
func (f *filter) SetTask(t *api.Task) bool {
	if f.task != "" {
		if f.alone[f.task] = !f.native; f.native {
			delete(f.alone, f.task)
		}
	}
	f.task, f.image, f.native, f.others = "", nil, false, nil
	if t.Spec.Placement == nil || len(t.Spec.Placement.Platforms) == 0 {
		return false
	}
	for _, p := range t.Spec.Placement.Platforms {
		f.image = append(f.image, toOCI(*p))
	}
	f.emulate = MayEmulate(t.Spec.GetContainer())
	f.task = t.ServiceID
	if t.SpecVersion != nil {
		f.task += fmt.Sprint(" ", t.SpecVersion.Index)
	}
	return true
}

// MayEmulate tells whether a service allows emulators.
func MayEmulate(c *api.ContainerSpec) bool { return c != nil && c.Labels[EmulateLabel] == "true" }

// Check implements scheduler.Filter.
func (f *filter) Check(n *scheduler.NodeInfo) bool {
	native := of(Native, n.Description)
	if runs(native, f.image) {
		f.native = true
		return true
	}
	name := n.ID
	if n.Description != nil && n.Description.Hostname != "" {
		name = n.Description.Hostname
	}
	f.others = append(f.others, name+": "+names(native))
	return f.emulate && f.alone[f.task] && runs(of(Emulated, n.Description), f.image)
}

// named is how many nodes an explanation names.
const named = 5

// Explain implements scheduler.Filter.
func (f *filter) Explain(int) string {
	others, more := slices.Sorted(slices.Values(f.others)), ""
	if len(others) > named {
		others, more = others[:named], fmt.Sprintf("; and %d more", len(f.others)-named)
	}
	wanted := names(f.image)
	all := wanted
	for _, o := range others {
		_, has, _ := strings.Cut(o, ": ")
		for _, platform := range strings.Split(has, ",") {
			if platform != "" && !slices.Contains(strings.Split(all, ","), platform) {
				all += "," + platform
			}
		}
	}
	return fmt.Sprintf("%s%s; the image has %s; build it with gantry build --platform %s, or allow emulators with --emulate",
		strings.Join(others, "; "), more, wanted, all)
}

// Nowhere explains why no node of a cluster runs an image; it is empty when one does, or an emulating one may.
func Nowhere(image []ocispec.Platform, emulate bool, nodes []*api.Node) string {
	f := &filter{alone: map[string]bool{"": true}, emulate: emulate}
	for _, p := range FromImage(image) {
		f.image = append(f.image, toOCI(*p))
	}
	if len(f.image) == 0 || len(nodes) == 0 {
		return ""
	}
	for _, n := range nodes {
		if f.Check(&scheduler.NodeInfo{Node: n}) {
			return ""
		}
	}
	return f.Explain(len(nodes))
}
