package frontend

import (
	"context"
	"testing"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// asked notes the definitions that are solved.
type asked struct {
	gateway.Client
	defs []*pb.Definition
}

func (a *asked) Solve(_ context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	a.defs = append(a.defs, req.Definition)
	return gateway.NewResult(), nil
}

// ops are the operations of a definition, by digest.
func ops(t *testing.T, def *pb.Definition) map[string]*pb.Op {
	t.Helper()
	all := map[string]*pb.Op{}
	for _, text := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(text); err != nil {
			t.Fatal(err)
		}
		all[digest.FromBytes(text).String()] = &op
	}
	return all
}

// The steps that a scan describes again, without the platform that they were built for, are the built ones;
// the scanner's own, and those of a stage that has its platform, stay as they are.
func TestScansAreOfWhatWasBuilt(t *testing.T) {
	target, host := ocispec.Platform{OS: "linux", Architecture: "s390x"}, ocispec.Platform{OS: "linux", Architecture: "riscv64"}
	tools := llb.Image("tools", llb.Platform(host)).Run(llb.Args([]string{"make"})).Root()
	result := llb.Scratch().File(llb.Mkfile("/a", 0o644,
		[]byte("x"))).Run(llb.Args([]string{"/a"})).Root().File(llb.Copy(tools, "/b", "/b"))
	scanner := llb.Image("scanner", llb.Platform(host)).Run(llb.Args([]string{"scan"}), llb.AddEnv("BUILDKIT_SCAN_DESTINATION", "/out"))
	scanner.AddMount("/src", result, llb.Readonly)
	out := scanner.AddMount("/out", llb.Scratch())

	client := &asked{}
	k := &platformKeeper{Client: client}
	solve := func(st llb.State, p ocispec.Platform) {
		t.Helper()
		def, err := st.Marshal(t.Context(), llb.Platform(p))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Solve(t.Context(), gateway.SolveRequest{Definition: def.ToPB()}); err != nil {
			t.Fatal(err)
		}
	}
	solve(result, target)
	solve(result, host) // the build is for both
	solve(out, ocispec.Platform{OS: "linux", Architecture: "amd64"})

	built := ops(t, client.defs[0])
	for d, op := range ops(t, client.defs[1]) {
		if op.GetExec() != nil && op.Platform.Architecture == target.Architecture {
			t.Errorf("the build for %s has a step of the one for %s", host.Architecture, target.Architecture)
		}
		built[d] = op
	}
	scan := ops(t, client.defs[2])
	steps := 0
	for d, op := range scan {
		for _, in := range op.Inputs {
			if scan[in.Digest] == nil {
				t.Errorf("an input of %v is lost", op.Op)
			}
		}
		args := op.GetExec().GetMeta().GetArgs()
		if len(args) == 0 {
			continue
		}
		steps++
		switch _, same := built[d]; {
		case args[0] == "scan" && op.Platform.Architecture != host.Architecture:
			t.Errorf("the scanner runs as %s", op.Platform.Architecture)
		case args[0] != "scan" && !same:
			t.Errorf("step %v for %s is none of the build", args, op.Platform.Architecture)
		}
	}
	if steps != 3 {
		t.Errorf("%d steps in the scan, want the scanner, make and /a", steps)
	}
}
