// Package attest says what is in an image and how it came to be: it lays in-toto statements beside images
// as OCI referrers, so that an index has the platforms in it that one can run, and nothing else, and tells
// in SBOMs which layer a file is from.
//
// Statements are in-toto's (github.com/in-toto/attestation); provenance in them is BuildKit's SLSA
// predicate; the other layout, in which attestations are manifests of the index under a platform
// "unknown/unknown", is BuildKit's own (docs/attestations/attestation-storage.md there).
package attest

import (
	"context"
	"encoding/csv"
	"slices"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/frontend/attestations"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc"
)

// OwnScanner is an interceptor of BuildKit's API that names generator in every request for an SBOM that
// names none: BuildKit's own is a program in an image from a hub. A build of a given time passes that on as
// the generator's parameter epoch.
func OwnScanner(generator, epoch string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		switch r := req.(type) {
		case *controlapi.SolveRequest:
			name(r.FrontendAttrs, generator, epoch)
		case *gatewayapi.SolveRequest: // the client that drives the frontend itself, as buildx does, says it in both
			name(r.FrontendOpt, generator, epoch)
		}
		return next(ctx, req)
	}
}

// name adds the generator to the attributes that ask for an SBOM (buildkit, frontend/attestations/parse.go,
// v0.34.2).
func name(attrs map[string]string, generator, epoch string) {
	for k, v := range attrs {
		if !isSBOM(k) {
			continue
		}
		fields, err := csv.NewReader(strings.NewReader(v)).Read()
		if err != nil && v != "" {
			continue // BuildKit says what is wrong with it
		}
		if slices.ContainsFunc(fields, func(f string) bool { return strings.HasPrefix(f, "generator=") }) {
			continue
		}
		fields = append(fields, "generator="+generator)
		if at := attrs["build-arg:SOURCE_DATE_EPOCH"]; at != "" {
			fields = append(fields, epoch+"="+at)
		}
		attrs[k] = line(fields)
	}
}

// line is the reverse of reading one.
func line(fields []string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.Write(fields) // into memory: nothing can fail
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

func isSBOM(key string) bool {
	for _, prefix := range []string{"attest:", "build-arg:BUILDKIT_ATTEST_"} {
		if kind, ok := strings.CutPrefix(key, prefix); ok && strings.EqualFold(kind, attestations.KeyTypeSbom) {
			return true
		}
	}
	return false
}
