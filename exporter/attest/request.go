package attest

import (
	"context"
	"maps"
	"slices"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/frontend/attestations"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc"
)

// OwnScanner is an interceptor of BuildKit's API that turns a request for an SBOM that names no scanner of its own into one for ours:
// BuildKit's is a program in an image from a hub.
func OwnScanner(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if inner, ok := req.(*gatewayapi.SolveRequest); ok && wantsSBOM(inner.FrontendOpt) {
		// The client that drives the frontend itself, as buildx does, says it in both requests.
		maps.DeleteFunc(inner.FrontendOpt, func(k, _ string) bool { return isSBOM(k) })
		return next(ctx, req)
	}
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok || !wantsSBOM(solve.FrontendAttrs) {
		return next(ctx, req)
	}
	maps.DeleteFunc(solve.FrontendAttrs, func(k, _ string) bool { return isSBOM(k) })
	for _, e := range solve.Exporters {
		if e.Attrs == nil {
			e.Attrs = map[string]string{}
		}
		e.Attrs[OptKeySBOM] = "true"
	}
	if solve.ExporterDeprecated != "" {
		if solve.ExporterAttrsDeprecated == nil {
			solve.ExporterAttrsDeprecated = map[string]string{}
		}
		solve.ExporterAttrsDeprecated[OptKeySBOM] = "true"
	}
	return next(ctx, req)
}

func isSBOM(key string) bool {
	for _, prefix := range []string{"attest:", "build-arg:BUILDKIT_ATTEST_"} {
		if kind, ok := strings.CutPrefix(key, prefix); ok && strings.EqualFold(kind, attestations.KeyTypeSbom) {
			return true
		}
	}
	return false
}

// wantsSBOM tells a request for an SBOM without a generator, or with a parameter of one, by its
// attributes (buildkit, frontend/attestations/parse.go, v0.34.2).
func wantsSBOM(attrs map[string]string) bool {
	named := func(v string) bool {
		return slices.ContainsFunc(strings.Split(v, ","), func(field string) bool {
			return strings.HasPrefix(strings.Trim(field, `"`), "generator=")
		})
	}
	wants := false
	for k, v := range attrs {
		if !isSBOM(k) {
			continue
		}
		if named(v) {
			return false
		}
		wants = true
	}
	return wants
}
