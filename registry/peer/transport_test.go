package peer

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A registry's client gets what has a digest from other nodes, when one has it, and all else from the registry.
func TestTransport(t *testing.T) {
	layer, config := random(3<<20), []byte("{}")
	of := func(b []byte) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b)), MediaType: ocispec.MediaTypeImageLayerGzip}
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: of(config), Layers: []ocispec.Descriptor{of(layer)},
	})
	if err != nil {
		t.Fatal(err)
	}
	all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": nil}, layer, config, manifest)
	var asked []string
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		http.Error(w, "not here", http.StatusNotFound)
	}))
	defer registry.Close()
	web := &http.Client{Transport: all.client(t, "a").Transport(http.DefaultTransport)}
	get := func(method, path string) (int, string, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, registry.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body), res.Header.Get("Content-Type")
	}
	sum := func(b []byte) string { return digest.FromBytes(b).String() }
	if code, _, _ := get("GET", "/v2/app/blobs/"+sum(layer)); code != http.StatusNotFound {
		t.Errorf("a blob of which nothing is known: %d", code) // its size is not
	}
	if code, _, kind := get("HEAD", "/v2/app/manifests/"+sum(manifest)); code != http.StatusOK || kind != ocispec.MediaTypeImageManifest {
		t.Errorf("the manifest: %d, %s", code, kind)
	}
	for path, want := range map[string]string{
		"manifests/" + sum(manifest): string(manifest), "blobs/" + sum(config): string(config), "blobs/" + sum(layer): string(layer),
	} {
		if code, got, _ := get("GET", "/v2/some/app/"+path); code != http.StatusOK || got != want {
			t.Errorf("%s: %d, %d bytes", path, code, len(got))
		}
	}
	asked = nil
	for _, path := range []string{
		"GET /v2/", "GET /v2/app/manifests/latest", "POST /v2/app/blobs/uploads/", "GET /v2/app/manifests/" + sum(nil),
	} {
		method, at, _ := strings.Cut(path, " ")
		if code, _, _ := get(method, at); code != http.StatusNotFound || len(asked) != 1 || asked[0] != path {
			t.Errorf("%s: %d, and the registry was asked for %v", path, code, asked)
		}
		asked = nil
	}
}
