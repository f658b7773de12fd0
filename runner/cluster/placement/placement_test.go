package placement

import (
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/manager/scheduler"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func parse(all ...string) (out []ocispec.Platform) {
	for _, s := range all {
		out = append(out, platforms.MustParse(s))
	}
	return out
}

func node(name string, native, emulated []ocispec.Platform) *scheduler.NodeInfo {
	d := &api.NodeDescription{Hostname: name, Engine: &api.EngineDescription{}}
	Describe(d.Engine, native, emulated)
	return &scheduler.NodeInfo{Node: &api.Node{ID: name + "-id", Description: d}}
}

func task(emulate bool, image ...string) *api.Task {
	t := &api.Task{ServiceID: "s", Spec: api.TaskSpec{Placement: &api.Placement{Platforms: FromImage(parse(image...))}}}
	if emulate {
		t.Spec.Runtime = &api.TaskSpec_Container{Container: &api.ContainerSpec{Labels: map[string]string{EmulateLabel: "true"}}}
	}
	return t
}

// SwarmKit's own filter is gone, and ours is the last: an upgrade that moves the variable does not link, and one that fills
// it later fails here.
func TestFilterIsExchanged(t *testing.T) {
	for i, f := range stock {
		if _, is := f.(*scheduler.PlatformFilter); is {
			t.Error("SwarmKit's platform filter is still there")
		}
		if _, ours := f.(*filter); ours != (i == len(stock)-1) {
			t.Errorf("filter %d is %T", i, f)
		}
	}
	if len(stock) < 5 {
		t.Errorf("there are %d filters", len(stock))
	}
}

func TestNativePlatforms(t *testing.T) {
	pc, pi := node("pc", parse("linux/amd64"), nil), node("pi", parse("linux/arm/v7"), nil)
	pi64, both := node("pi64", parse("linux/arm64"), nil), node("both", parse("linux/arm64", "linux/arm/v7"), nil)
	old := &scheduler.NodeInfo{Node: &api.Node{Description: &api.NodeDescription{
		Platform: &api.Platform{OS: "linux", Architecture: "armv6l"}}}}
	for _, c := range []struct {
		image []string
		on    []*scheduler.NodeInfo
	}{
		{[]string{"linux/amd64"}, []*scheduler.NodeInfo{pc}},
		{[]string{"linux/arm/v7"}, []*scheduler.NodeInfo{pi, both}},
		{[]string{"linux/arm/v6"}, []*scheduler.NodeInfo{pi, both, old}},
		{[]string{"linux/arm64"}, []*scheduler.NodeInfo{pi64, both}},
		{[]string{"linux/amd64", "linux/arm/v7"}, []*scheduler.NodeInfo{pc, pi, both}},
	} {
		f := &filter{alone: map[string]bool{}}
		if !f.SetTask(task(false, c.image...)) {
			t.Fatal("the filter is off")
		}
		want := map[*scheduler.NodeInfo]bool{}
		for _, n := range c.on {
			want[n] = true
		}
		for _, n := range []*scheduler.NodeInfo{pc, pi, pi64, both, old} {
			if got := f.Check(n); got != want[n] {
				t.Errorf("%v on %s: %v", c.image, n.Description.Hostname, got)
			}
		}
	}
	if (&filter{}).SetTask(&api.Task{}) {
		t.Error("a task of an unknown image is filtered")
	}
}

// A node runs what it has natively, before what it emulates, in the variant that the image has.
func TestChoose(t *testing.T) {
	pi := node("pi", parse("linux/arm/v7"), parse("linux/amd64")).Description
	for image, want := range map[string]string{
		"linux/amd64 linux/arm/v7": "linux/arm/v7", "linux/amd64 linux/arm/v6": "linux/arm/v6", "linux/amd64": "linux/amd64",
		"linux/s390x": "", "": "",
	} {
		got := ""
		if p := Choose(pi, task(false, strings.Fields(image)...).Spec.Placement); p != nil {
			got = platforms.Format(*p)
		}
		if got != want {
			t.Errorf("of %q it runs %q, want %q", image, got, want)
		}
	}
	if Choose(pi, nil) != nil {
		t.Error("an unknown image has a platform")
	}
}

// An emulating node is taken when it is allowed, once a pass has shown that nobody is native, and not for longer.
func TestEmulators(t *testing.T) {
	pc := node("pc", parse("linux/amd64", "linux/amd64/v2", "linux/386"), parse("linux/arm/v7"))
	pi := node("pi", parse("linux/arm/v6", "linux/arm/v7"), nil)
	f := &filter{alone: map[string]bool{}}
	pass := func(t *api.Task, nodes ...*scheduler.NodeInfo) (on []string) {
		f.SetTask(t)
		for _, n := range nodes {
			if f.Check(n) {
				on = append(on, n.Description.Hostname)
			}
		}
		return on
	}
	arm := task(true, "linux/arm/v7")
	for i, c := range []struct {
		nodes []*scheduler.NodeInfo
		want  string
	}{
		{[]*scheduler.NodeInfo{pc, pi}, "pi"},
		{[]*scheduler.NodeInfo{pc}, ""},
		{[]*scheduler.NodeInfo{pc}, "pc"},
		{[]*scheduler.NodeInfo{pc, pi}, "pc pi"},
		{[]*scheduler.NodeInfo{pc, pi}, "pi"},
	} {
		if got := strings.Join(pass(arm, c.nodes...), " "); got != c.want {
			t.Errorf("pass %d: on %q, want %q", i, got, c.want)
		}
	}
	strict := task(false, "linux/arm/v7")
	for range 3 {
		if got := pass(strict, pc); got != nil {
			t.Errorf("emulated without leave, on %v", got)
		}
	}
	const want = "pc: linux/amd64; the image has linux/arm/v7; build it with gantry build --platform linux/arm/v7,linux/amd64, " +
		"or allow emulators with --emulate"
	if got := f.Explain(1); got != want {
		t.Errorf("it explains\n%s, want\n%s", got, want)
	}
	if got := names(parse("linux/386", "linux/amd64")); got != "linux/amd64" {
		t.Errorf("a PC is called %s", got)
	}
	if got := names(parse("linux/arm/v6", "linux/arm/v7", "linux/arm64")); got != "linux/arm/v7,linux/arm64" {
		t.Errorf("a Pi is %s", got)
	}
}

// An image is built for the machines that may run it.
func TestFit(t *testing.T) {
	node := func(name, machine string, availability api.NodeSpec_Availability, native ...string) *api.Node {
		n := &api.Node{ID: name, Spec: api.NodeSpec{Availability: availability}, Description: &api.NodeDescription{
			Hostname: name, Platform: &api.Platform{OS: "linux", Architecture: machine}, Engine: &api.EngineDescription{},
		}}
		for _, p := range native {
			n.Description.Engine.Plugins = append(n.Description.Engine.Plugins, api.PluginDescription{Type: Native, Name: p})
		}
		return n
	}
	nodes := []*api.Node{
		node("pc", "x86_64", api.NodeAvailabilityActive, "linux/386", "linux/amd64"),
		node("other", "x86_64", api.NodeAvailabilityActive, "linux/amd64"),
		node("pi", "armv7l", api.NodeAvailabilityActive, "linux/arm/v6", "linux/arm/v7"),
		node("says", "x86_64", api.NodeAvailabilityActive, "linux/riscv64"),
		node("drained", "aarch64", api.NodeAvailabilityDrain, "linux/arm64"),
		{ID: "unknown"},
	}
	for constraints, want := range map[string]string{
		"": "linux/amd64 linux/arm/v7 linux/riscv64", "node.hostname==pi": "linux/arm/v7", "node.hostname!=pi": "linux/amd64 linux/riscv64",
		"node.hostname==drained": "", "node.platform.arch==armv7l": "linux/arm/v7",
	} {
		got, err := Fit(nodes, strings.Fields(constraints))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v, %v; want %s", constraints, got, err, want)
		}
	}
	if _, err := Fit(nodes, []string{"nonsense"}); err == nil {
		t.Error("nonsense is a constraint")
	}
}
