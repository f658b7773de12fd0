package farm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func native(p ocispec.Platform) bool { return p.Architecture == "amd64" }

func on(arch string) llb.ConstraintsOpt {
	return llb.Platform(platforms.MustParse("linux/" + arch))
}

func graphOf(t *testing.T, s llb.State) *graph {
	t.Helper()
	def, err := s.Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	g, err := parse(def.ToPB())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// steps are the commands of a definition, in order.
func steps(def *pb.Definition) string {
	all := commands([]*pb.Definition{def})
	for i, s := range all {
		all[i] = strings.TrimPrefix(s, "mount / from exec ")
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Only what is of one foreign platform goes to another machine, in the largest parts that are.
func TestSplit(t *testing.T) {
	base := func(arch string) llb.State { return llb.Image("base", on(arch)) }
	run := func(s llb.State, name, arch string, more ...llb.RunOption) llb.State {
		return s.Run(append([]llb.RunOption{llb.Args([]string{name}), on(arch)}, more...)...).Root()
	}
	copied := func(from, to llb.State) llb.State { return to.File(llb.Copy(from, "/a", "/b")) }
	for name, c := range map[string]struct {
		state llb.State
		parts []string
	}{
		"nothing runs":   {copied(base("arm"), base("arm")), nil},
		"native":         {run(base("amd64"), "a", "amd64"), nil},
		"all of it":      {copied(llb.Local("context"), run(run(base("arm"), "a", "arm"), "b", "arm")), []string{"a b"}},
		"two stages":     {run(copied(run(base("arm"), "a", "arm"), base("arm")), "b", "arm"), []string{"a b"}},
		"cross-compiled": {run(copied(run(base("amd64"), "cc", "amd64"), run(base("arm"), "a", "arm")), "b", "arm"), []string{"a"}},
		"two parts": {run(run(base("amd64"), "cc", "amd64"), "b", "amd64",
			llb.AddMount("/x", run(base("arm"), "x", "arm")), llb.AddMount("/y", run(base("arm"), "y", "arm"))), []string{"x", "y"}},
		"another one beside":     {copied(run(base("arm64"), "c", "arm64"), run(base("arm"), "a", "arm")), []string{"a"}},
		"insecure":               {run(base("arm"), "a", "arm", llb.Security(llb.SecurityModeInsecure)), nil},
		"on the host's network":  {run(run(base("arm"), "a", "arm"), "b", "arm", llb.Network(llb.NetModeHost)), []string{"a"}},
		"another variant is not": {run(run(base("arm/v6"), "a", "arm/v6"), "b", "arm/v7"), []string{"a"}},
	} {
		g := graphOf(t, c.state)
		p, edges := g.split(native)
		var got []string
		for _, e := range edges {
			part := g.part(e)
			got = append(got, steps(part))
			if again, err := parse(part); err != nil || again.root.Digest != e.op ||
				len(part.Def) != len(g.above(e.op, map[string]bool{}))+1 {
				t.Errorf("%s: the part is no definition of its own: %v", name, err)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.parts) {
			t.Errorf("%s: %v for %s, want %v", name, got, platforms.Format(p), c.parts)
		}
	}
}

// What ran elsewhere just now is taken from there, also by a build without a cache; what runs here is not.
func TestNoCache(t *testing.T) {
	base := llb.Image("base", on("arm"), llb.IgnoreCache)
	far := base.Run(llb.Args([]string{"a"}), on("arm"), llb.IgnoreCache).Root()
	near := llb.Image("base", on("amd64")).Run(llb.Args([]string{"b"}), on("amd64"), llb.IgnoreCache, llb.AddMount("/far", far))
	g := graphOf(t, near.Root())
	_, edges := g.split(native)
	for d, m := range g.cached(edges).Metadata {
		op := g.ops[d]
		far := op != nil && op.Platform != nil && op.Platform.Architecture == "arm"
		if was := g.def.Metadata[d].IgnoreCache; far && m.IgnoreCache || !far && m.IgnoreCache != was {
			t.Errorf("%v: IgnoreCache is %v, and was %v", op, m.IgnoreCache, was)
		}
		if far && !g.def.Metadata[d].IgnoreCache {
			t.Errorf("what was asked for is changed: %v", op)
		}
	}
}

// Idle machines come first, of them those that have done the work before; who does not answer is the last.
func TestRank(t *testing.T) {
	all := []load{
		{node: Node{Name: "silent"}, warm: 9, err: errors.New("x")}, {node: Node{Name: "busy"}, builds: 2, warm: 9},
		{node: Node{Name: "less"}, builds: 1, warm: 9}, {node: Node{Name: "cold"}}, {node: Node{Name: "b"}, warm: 2},
		{node: Node{Name: "a"}, warm: 2},
	}
	slices.SortStableFunc(all, compare)
	var got []string
	for _, l := range all {
		got = append(got, l.node.Name)
	}
	if want := "a b cold less busy silent"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	one := &work{nodes: []Node{{Name: "only"}}}
	if got := New(Options{}).ranked(context.Background(), one); len(got) != 1 {
		t.Errorf("%v", got)
	}
}
