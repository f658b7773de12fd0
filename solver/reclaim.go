package solver

import (
	"context"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/gantry-build/gantry/cache"
)

// reclaiming answers a request that failed for want of disk only when what the failed work has
// written is gone again, so that the next request finds the space.
func reclaiming(store *cache.Store) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		if err != nil && strings.Contains(err.Error(), unix.ENOSPC.Error()) {
			reclaim(context.WithoutCancel(ctx), store)
		}
		return resp, err
	}
}

// reclaim collects several times: BuildKit releases the results of failed work in the background
// (source/local/source.go, v0.34.2), and fsutil leaves a file that it could not write open, with all
// of its blocks, until Go's garbage collector closes it (diskwriter.go, v0.0.0-20261103).
func reclaim(ctx context.Context, store *cache.Store) {
	for range 5 {
		runtime.GC()
		if _, err := store.DB.GarbageCollect(ctx); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
