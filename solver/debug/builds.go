package debug

import (
	"context"
	"slices"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// Named is a server's interceptor: it notes which builds run in which session: an op knows its sessions only, and a user knows
// the build's ref, which the history lists.
func (f *Steps) Named(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok || solve.Session == "" {
		return next(ctx, req)
	}
	f.mu.Lock()
	f.builds[solve.Session] = append(f.builds[solve.Session], solve.Ref)
	f.mu.Unlock()
	defer f.ended(solve.Session, solve.Ref)
	return next(ctx, req)
}

func (f *Steps) ended(session, ref string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := slices.DeleteFunc(f.builds[session], func(r string) bool { return r == ref })
	if len(rest) == 0 {
		delete(f.builds, session)
		return
	}
	f.builds[session] = rest
}

// Usage is a server's interceptor: it counts what only kept steps hold as what pruning frees, which it does.
func (f *Steps) Usage(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	du, ok := resp.(*controlapi.DiskUsageResponse)
	if err != nil || !ok {
		return resp, err
	}
	held := f.held()
	records := map[string]*controlapi.UsageRecord{}
	for _, r := range du.Record {
		records[r.ID] = r
	}
	for len(held) > 0 {
		r := records[held[0]]
		held = held[1:]
		if r != nil && r.InUse {
			r.InUse = false
			held = append(held, r.Parents...)
		}
	}
	return du, nil
}

// held are the records of the build cache behind kept steps.
func (f *Steps) held() (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.steps {
		for _, ref := range k.refs {
			ids = append(ids, ref.ID())
		}
	}
	return ids
}

// Pruned is a server's interceptor: it lets go of the kept steps before the build cache is pruned: whoever asks for space gets
// that, too.
func (f *Steps) Pruned(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.FullMethod == controlapi.Control_Prune_FullMethodName {
		f.release()
	}
	return next(srv, stream)
}
