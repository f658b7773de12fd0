package farm

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// graph is a definition, read.
type graph struct {
	def  *pb.Definition
	ops  map[string]*pb.Op
	raw  map[string][]byte
	root *pb.Input // the result
}

// edge is one output of an operation.
type edge struct {
	op    string
	index int64
}

func parse(def *pb.Definition) (*graph, error) {
	g := &graph{def: def, ops: map[string]*pb.Op{}, raw: map[string][]byte{}}
	for _, dt := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, fmt.Errorf("build definition: %w", err)
		}
		d := digest.FromBytes(dt).String()
		g.ops[d], g.raw[d] = op, dt
		if op.Op == nil && len(op.Inputs) == 1 { // the last one names the result
			g.root = op.Inputs[0]
		}
	}
	return g, nil
}

// split looks for the first platform whose steps do not run here natively, and returns the largest parts of the graph that have such
// steps, and steps of no other platform.
func (g *graph) split(native func(ocispec.Platform) bool) (p ocispec.Platform, parts []edge) {
	if g.root == nil {
		return p, nil
	}
	found := false
	for _, dt := range g.def.Def {
		op := g.ops[digest.FromBytes(dt).String()]
		if op.GetExec() == nil || op.Platform == nil {
			continue
		}
		if at := platformOf(op); !native(at) {
			p, found = at, true
			break
		}
	}
	if !found {
		return p, nil
	}
	s := splitter{g: g, platform: p, known: map[string]purity{}, seen: map[edge]bool{}}
	s.walk(edge{g.root.Digest, g.root.Index})
	return p, s.parts
}

func platformOf(op *pb.Op) ocispec.Platform {
	return platforms.Normalize(op.Platform.Spec())
}

// purity is what steps there are above an operation, with its own.
type purity int

const (
	stepless purity = iota // none
	pure                   // of the platform
	mixed                  // others
)

type splitter struct {
	g        *graph
	platform ocispec.Platform
	known    map[string]purity
	seen     map[edge]bool
	parts    []edge
}

func (s *splitter) walk(e edge) {
	if s.seen[e] || s.g.ops[e.op] == nil {
		return
	}
	s.seen[e] = true
	switch s.of(e.op) {
	case pure:
		s.parts = append(s.parts, e)
	case mixed:
		for _, in := range s.g.ops[e.op].Inputs {
			s.walk(edge{in.Digest, in.Index})
		}
	}
}

func (s *splitter) of(d string) purity {
	if p, ok := s.known[d]; ok {
		return p
	}
	op := s.g.ops[d]
	if op == nil {
		return mixed // not to be understood here
	}
	all := stepless
	if step := op.GetExec(); step != nil {
		all = mixed
		if portable(step) && op.Platform != nil && platforms.OnlyStrict(s.platform).Match(platformOf(op)) {
			all = pure
		}
	}
	for _, in := range op.Inputs {
		all = max(all, s.of(in.Digest))
	}
	s.known[d] = all
	return all
}

// portable steps ask for nothing of the machine on which the build was allowed.
func portable(step *pb.ExecOp) bool {
	return step.Network != pb.NetMode_HOST && step.Security != pb.SecurityMode_INSECURE && len(step.CdiDevices) == 0
}

// above is the set of operations on which one stands, and itself.
func (g *graph) above(d string, set map[string]bool) map[string]bool {
	if g.ops[d] == nil || set[d] {
		return set
	}
	set[d] = true
	for _, in := range g.ops[d].Inputs {
		g.above(in.Digest, set)
	}
	return set
}

// part is the definition of one output.
func (g *graph) part(e edge) *pb.Definition {
	set := g.above(e.op, map[string]bool{})
	last := &pb.Op{Inputs: []*pb.Input{{Digest: e.op, Index: e.index}}}
	dt, err := last.MarshalVT()
	if err != nil {
		panic(err) // of two plain fields
	}
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	for _, raw := range g.def.Def {
		if d := digest.FromBytes(raw).String(); set[d] {
			out.Def = append(out.Def, raw)
			if m := g.def.Metadata[d]; m != nil {
				out.Metadata[d] = m
			}
		}
	}
	out.Def = append(out.Def, dt)
	if m := g.def.Metadata[digest.FromBytes(g.def.Def[len(g.def.Def)-1]).String()]; m != nil {
		out.Metadata[digest.FromBytes(dt).String()] = m
	}
	if src := g.def.Source; src != nil {
		out.Source = &pb.Source{Infos: src.Infos, Locations: map[string]*pb.Locations{}}
		for d, l := range src.Locations {
			if set[d] {
				out.Source.Locations[d] = l
			}
		}
	}
	return out
}

// cached is the whole definition, but for the wish that nothing in the parts be taken from a cache: their steps have run just now.
func (g *graph) cached(parts []edge) *pb.Definition {
	out := &pb.Definition{Def: g.def.Def, Metadata: maps.Clone(g.def.Metadata), Source: g.def.Source}
	set := map[string]bool{}
	for _, p := range parts {
		g.above(p.op, set)
	}
	for d := range set {
		if m := g.def.Metadata[d]; m != nil && m.IgnoreCache {
			own := m.CloneVT()
			own.IgnoreCache = false
			out.Metadata[d] = own
		}
	}
	return out
}

// describe is a step as a cache's record of its result describes it (buildkit, solver/llbsolver/ops/exec.go, v0.34.2).
func describe(step *pb.ExecOp) string {
	return "mount / from exec " + strings.Join(step.GetMeta().GetArgs(), " ")
}

// most is for how many steps a machine's cache is looked through.
const most = 32

// commands are the last steps of definitions, described.
func commands(all []*pb.Definition) (out []string) {
	for _, def := range all {
		for _, dt := range slices.Backward(def.Def) {
			op := &pb.Op{}
			if op.UnmarshalVT(dt) == nil && op.GetExec() != nil && len(out) < most {
				out = append(out, describe(op.GetExec()))
			}
		}
	}
	return out
}
