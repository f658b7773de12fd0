package farm

import (
	"context"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// A machine is told the rules of the build for which it works, as long as that runs.
func TestRules(t *testing.T) {
	f := New(Options{})
	rules := func() *controlapi.SolveRequest {
		r := &controlapi.SolveRequest{Session: "s"}
		f.rule(r)
		return r
	}
	policy := &spb.Policy{Version: 1}
	inner := func(context.Context, any) (any, error) {
		if r := rules(); r.SourcePolicy != policy || r.SourcePolicySession != "s" || !r.ProxyNetwork {
			t.Errorf("while it runs: %v", r)
		}
		return nil, nil
	}
	_, _ = f.Asked(t.Context(), &controlapi.SolveRequest{Session: "s", ProxyNetwork: true}, nil,
		func(ctx context.Context, _ any) (any, error) {
			other := &controlapi.SolveRequest{Session: "s", SourcePolicy: policy, SourcePolicySession: "s"}
			_, err := f.Asked(ctx, other, nil, inner)
			if r := rules(); r.SourcePolicy != nil || !r.ProxyNetwork {
				t.Errorf("after the other: %v", r)
			}
			return nil, err
		})
	if r := rules(); r.ProxyNetwork || len(f.asked) != 0 {
		t.Errorf("when all are over: %v, %v", r, f.asked)
	}
	f.o.ProxyNetwork = true
	if !rules().ProxyNetwork {
		t.Error("the machine's own rule is not told")
	}
}
