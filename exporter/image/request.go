package image

import (
	"context"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"google.golang.org/grpc"
)

// OptKeySharedLayers is the attribute of an image whose layers are to be the ones that BuildKit makes, as
// something else is made of those, too.
const OptKeySharedLayers = "shared-layers"

// SharedLayers is an interceptor of BuildKit's API for builds that also export their cache: that has
// BuildKit's layers, which are compressed in another way than ours. An image with its own would be stored
// twice, and a build from that cache would give another image.
func SharedLayers(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok || solve.Cache == nil || len(solve.Cache.Exports) == 0 && solve.Cache.ExportRefDeprecated == "" {
		return next(ctx, req)
	}
	for _, e := range solve.Exporters {
		share(e.Type, &e.Attrs)
	}
	share(solve.ExporterDeprecated, &solve.ExporterAttrsDeprecated)
	return next(ctx, req)
}

func share(exporter string, attrs *map[string]string) {
	if exporter != client.ExporterImage && exporter != "moby" {
		return
	}
	if *attrs == nil {
		*attrs = map[string]string{}
	}
	(*attrs)[OptKeySharedLayers] = "true"
}
