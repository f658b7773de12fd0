package attest

import (
	"context"
	"maps"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
)

// ask sends a request through the interceptor and returns it as BuildKit sees it.
func ask(t *testing.T, req any) any {
	t.Helper()
	seen, err := OwnScanner(t.Context(), req, nil, func(_ context.Context, req any) (any, error) { return req, nil })
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// A request that names no scanner is ours; one that names its own, and one for no SBOM, is left alone.
func TestOwnScanner(t *testing.T) {
	for name, c := range map[string]struct {
		attrs map[string]string
		ours  bool
	}{
		"none":                {map[string]string{"filename": "Dockerfile"}, false},
		"plain":               {map[string]string{"attest:sbom": ""}, true},
		"other case":          {map[string]string{"attest:SBOM": ""}, true},
		"old name":            {map[string]string{"build-arg:BUILDKIT_ATTEST_SBOM": "true"}, true},
		"with a parameter":    {map[string]string{"attest:sbom": "scan-cache=no"}, true},
		"its own":             {map[string]string{"attest:sbom": "generator=docker/scout"}, false},
		"its own, quoted":     {map[string]string{"attest:sbom": `"generator=a,b",x=y`}, false},
		"provenance is other": {map[string]string{"attest:provenance": "mode=max"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := maps.Clone(c.attrs)
			solve := ask(t, &controlapi.SolveRequest{
				FrontendAttrs: maps.Clone(c.attrs), Exporters: []*controlapi.Exporter{{Type: "image"}}, ExporterDeprecated: "oci",
			}).(*controlapi.SolveRequest)
			for _, attrs := range []map[string]string{solve.Exporters[0].Attrs, solve.ExporterAttrsDeprecated} {
				if got := attrs[OptKeySBOM] == "true"; got != c.ours {
					t.Errorf("our scanner is asked: %v", got)
				}
			}
			if left := wantsSBOM(solve.FrontendAttrs); left {
				t.Errorf("BuildKit is asked for an SBOM without a scanner: %v", solve.FrontendAttrs)
			}
			if !c.ours && !maps.Equal(before, solve.FrontendAttrs) {
				t.Errorf("%v became %v", before, solve.FrontendAttrs)
			}
			inner := ask(t, &gatewayapi.SolveRequest{FrontendOpt: maps.Clone(c.attrs)}).(*gatewayapi.SolveRequest)
			if c.ours == maps.Equal(before, inner.FrontendOpt) {
				t.Errorf("through the gateway: %v", inner.FrontendOpt)
			}
		})
	}
}
