package farm

import (
	"context"
	"slices"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// Asked is an interceptor of BuildKit's API: by it a farm knows the rules of running builds, which hold on other machines, too.
func (f *Farm) Asked(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok || solve.Session == "" {
		return next(ctx, req)
	}
	f.mu.Lock()
	f.asked[solve.Session] = append(f.asked[solve.Session], solve)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		left := slices.DeleteFunc(f.asked[solve.Session], func(r *controlapi.SolveRequest) bool { return r == solve })
		if f.asked[solve.Session] = left; len(left) == 0 {
			delete(f.asked, solve.Session)
		}
	}()
	return next(ctx, req)
}

// rule gives a request to another machine the rules of the client's: what may be a source, and whether steps reach the network by a proxy.
func (f *Farm) rule(to *controlapi.SolveRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.asked[to.Session] {
		if r.SourcePolicy != nil {
			to.SourcePolicy = r.SourcePolicy
		}
		if r.SourcePolicySession != "" {
			to.SourcePolicySession = r.SourcePolicySession
		}
		to.ProxyNetwork = to.ProxyNetwork || r.ProxyNetwork
	}
	to.ProxyNetwork = to.ProxyNetwork || f.o.ProxyNetwork
}
