package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
)

// Transport answers a registry's clients with what other members have of what is asked for by its digest, and passes all else on.
func (c *Client) Transport(next http.RoundTripper) http.RoundTripper { return &transport{c, next} }

type transport struct {
	c    *Client
	next http.RoundTripper
}

// byDigest is the path of what has a digest in a registry (OCI distribution, end-2 and end-3).
var byDigest = regexp.MustCompile(`^/v2/.+/(manifests|blobs)/([a-z0-9]+:[0-9a-f]+)$`)

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	m := byDigest.FindStringSubmatch(req.URL.Path)
	if m == nil || req.Method != http.MethodGet && req.Method != http.MethodHead || req.Header.Get("Range") != "" {
		return t.next.RoundTrip(req)
	}
	d, err := digest.Parse(m[2])
	if err != nil {
		return t.next.RoundTrip(req)
	}
	var res *http.Response
	if m[1] == "manifests" {
		res, err = t.manifest(req, d)
	} else {
		res, err = t.blob(req, d)
	}
	if ctx := req.Context(); err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return t.next.RoundTrip(req)
	}
	return res, nil
}

// part is what is known of a config or a layer by the manifest to which it belongs.
type part struct {
	desc ocispec.Descriptor
	of   digest.Digest
}

// remembered is of how many blobs it is known at most what they belong to.
const remembered = 1 << 14

func (t *transport) manifest(req *http.Request, d digest.Digest) (*http.Response, error) {
	ctx := cache.WithNamespace(req.Context())
	desc, err := t.c.Resolve(ctx, d)
	if err != nil {
		return nil, err
	}
	dt, err := content.ReadBlob(ctx, t.c.Content, desc)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(dt, &m); err != nil {
		return nil, err
	}
	if images.IsManifestType(desc.MediaType) {
		t.c.mu.Lock()
		if t.c.parts == nil || len(t.c.parts) > remembered {
			t.c.parts = map[digest.Digest]part{}
		}
		for _, p := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			t.c.parts[p.Digest] = part{p, d}
		}
		t.c.mu.Unlock()
	}
	return answer(req, desc, io.NopCloser(bytes.NewReader(dt))), nil
}

func (t *transport) blob(req *http.Request, d digest.Digest) (*http.Response, error) {
	ctx := cache.WithNamespace(req.Context())
	t.c.mu.Lock()
	p, ok := t.c.parts[d]
	t.c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s belongs to no manifest of another node", d)
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: p.desc.Size}
	if req.Method == http.MethodHead {
		return answer(req, desc, http.NoBody), nil
	}
	if err := t.c.Fetch(ctx, p.desc, p.of); err != nil {
		return nil, err
	}
	ra, err := t.c.Content.ReaderAt(ctx, p.desc)
	if err != nil {
		return nil, err
	}
	return answer(req, desc, struct {
		io.Reader
		io.Closer
	}{content.NewReader(ra), ra}), nil
}

func answer(req *http.Request, d ocispec.Descriptor, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		ContentLength: d.Size, Body: body,
		Header: http.Header{
			"Content-Type": {d.MediaType}, "Content-Length": {strconv.FormatInt(d.Size, 10)},
			"Docker-Content-Digest": {d.Digest.String()},
		},
	}
}
