package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// call speaks the distribution protocol by hand; location may be relative.
func call(t *testing.T, s *Server, method, location string, header http.Header, body []byte, want int) *http.Response {
	t.Helper()
	if strings.HasPrefix(location, "/") {
		location = "http://" + s.Addr().String() + location
	}
	req, err := http.NewRequestWithContext(t.Context(), method, location, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client(t, s).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s, want %d\n%s", method, location, resp.Status, want, text)
	}
	return resp
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func withDigest(location, dgst string) string { return location + "&digest=" + dgst }

func errorCode(t *testing.T, resp *http.Response) string {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || len(body.Errors) == 0 {
		t.Fatalf("no error in the answer: %v", err)
	}
	return body.Errors[0].Code + ": " + body.Errors[0].Message
}

func TestUploadInChunks(t *testing.T) {
	s, _ := start(t, Options{})
	blob := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	loc := call(t, s, "POST", "/v2/chunks/blobs/uploads/", nil, nil, 202).Header.Get("Location")
	for off := 0; off < len(blob); off += 50_000 {
		end := min(off+50_000, len(blob))
		loc = call(t, s, "PATCH", loc, http.Header{
			"Content-Type":  {"application/octet-stream"},
			"Content-Range": {fmt.Sprintf("%d-%d", off, end-1)},
		}, blob[off:end], 202).Header.Get("Location")
	}
	call(t, s, "PUT", withDigest(loc, digestOf(blob)), nil, nil, 201)
	got, err := io.ReadAll(call(t, s, "GET", "/v2/chunks/blobs/"+digestOf(blob), nil, nil, 200).Body)
	if err != nil || !bytes.Equal(got, blob) {
		t.Fatalf("read %d bytes back of %d, %v", len(got), len(blob), err)
	}
}

func TestUploadWithTheWrongDigestIsRefused(t *testing.T) {
	s, said := start(t, Options{})
	blob := []byte("what was meant")
	loc := call(t, s, "POST", "/v2/harm/blobs/uploads/", nil, nil, 202).Header.Get("Location")
	resp := call(t, s, "PUT", withDigest(loc, digestOf(blob)), nil, []byte("what arrived!!"), 400)
	if code := errorCode(t, resp); !strings.HasPrefix(code, "DIGEST_INVALID") {
		t.Errorf("refused with %s", code)
	}
	call(t, s, "HEAD", "/v2/harm/blobs/"+digestOf(blob), nil, nil, 404)
	if said.String() != "" {
		t.Errorf("a client's mistake is logged:\n%s", said)
	}
}

func TestUploadGoesOnAfterARestart(t *testing.T) {
	root := t.TempDir()
	s, _ := start(t, Options{Root: root})
	loc := call(t, s, "POST", "/v2/resume/blobs/uploads/", nil, nil, 202).Header.Get("Location")
	stream := http.Header{"Content-Type": {"application/octet-stream"}}
	loc = call(t, s, "PATCH", loc, stream, []byte("first half, "), 202).Header.Get("Location")
	old := s.Addr().String()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = start(t, Options{Root: root})
	loc = strings.Replace(loc, old, s.Addr().String(), 1)
	loc = call(t, s, "PATCH", loc, stream, []byte("second half"), 202).Header.Get("Location")
	call(t, s, "PUT", withDigest(loc, digestOf([]byte("first half, second half"))), nil, nil, 201)
}

func TestMountAcrossRepositories(t *testing.T) {
	s, _ := start(t, Options{})
	blob := []byte("shared layer")
	loc := call(t, s, "POST", "/v2/from/blobs/uploads/", nil, nil, 202).Header.Get("Location")
	call(t, s, "PUT", withDigest(loc, digestOf(blob)), nil, blob, 201)
	call(t, s, "POST", "/v2/to/blobs/uploads/?mount="+digestOf(blob)+"&from=from", nil, nil, 201)
	call(t, s, "HEAD", "/v2/to/blobs/"+digestOf(blob), nil, nil, 200)
	// What is not there cannot be mounted: the client is asked to upload.
	call(t, s, "POST", "/v2/to/blobs/uploads/?mount="+digestOf([]byte("no"))+"&from=from", nil, nil, 202)
}

func TestTagsCatalogAndDelete(t *testing.T) {
	s, _ := start(t, Options{})
	host := s.Addr().String()
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/gone:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	if repos, err := crane.Catalog(host); err != nil || len(repos) != 1 || repos[0] != "gone" {
		t.Errorf("catalog: %v, %v", repos, err)
	}
	if tags, err := crane.ListTags(host + "/gone"); err != nil || len(tags) != 1 || tags[0] != "v1" {
		t.Errorf("tags: %v, %v", tags, err)
	}
	dgst, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Delete(host + "/gone@" + dgst.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := crane.Digest(host + "/gone:v1"); err == nil {
		t.Error("the deleted image still resolves")
	}
}
