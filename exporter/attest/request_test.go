package attest

import (
	"context"
	"maps"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/frontend/attestations"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
)

// ask sends a request through the interceptor and returns it as BuildKit sees it.
func ask(t *testing.T, req any) any {
	t.Helper()
	seen, err := OwnScanner("ours", "AT")(t.Context(), req, nil, func(_ context.Context, req any) (any, error) { return req, nil })
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// A request that names no scanner is ours; one that names its own, and one for no SBOM, is left alone.
func TestOwnScanner(t *testing.T) {
	for name, c := range map[string]struct {
		attrs map[string]string
		want  map[string]string // of the scanner; nil: as asked
	}{
		"none":       {map[string]string{"filename": "Dockerfile"}, nil},
		"plain":      {map[string]string{"attest:sbom": ""}, map[string]string{"generator": "ours"}},
		"other case": {map[string]string{"attest:SBOM": ""}, map[string]string{"generator": "ours"}},
		"old name": {map[string]string{"build-arg:BUILDKIT_ATTEST_SBOM": "true"},
			map[string]string{"generator": "ours", "true": ""}},
		"with a parameter":   {map[string]string{"attest:sbom": "scan=a"}, map[string]string{"generator": "ours", "scan": "a"}},
		"with a comma in it": {map[string]string{"attest:sbom": `"scan=a,b"`}, map[string]string{"generator": "ours", "scan": "a,b"}},
		"of a time": {map[string]string{"attest:sbom": "", "build-arg:SOURCE_DATE_EPOCH": "42"},
			map[string]string{"generator": "ours", "AT": "42"}},
		"its own":             {map[string]string{"attest:sbom": "generator=docker/scout"}, nil},
		"its own, quoted":     {map[string]string{"attest:sbom": `"generator=a,b",x=y`}, nil},
		"provenance is other": {map[string]string{"attest:provenance": "mode=max"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			solve := ask(t, &controlapi.SolveRequest{FrontendAttrs: maps.Clone(c.attrs)}).(*controlapi.SolveRequest)
			inner := ask(t, &gatewayapi.SolveRequest{FrontendOpt: maps.Clone(c.attrs)}).(*gatewayapi.SolveRequest)
			for _, got := range []map[string]string{solve.FrontendAttrs, inner.FrontendOpt} {
				if c.want == nil {
					if !maps.Equal(got, c.attrs) {
						t.Errorf("%v became %v", c.attrs, got)
					}
					continue
				}
				parsed, err := attestations.Parse(got)
				if err != nil || !maps.Equal(parsed["sbom"], c.want) {
					t.Errorf("%v became %v, which is %v, %v", c.attrs, got, parsed, err)
				}
			}
		})
	}
}
