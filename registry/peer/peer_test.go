package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/cachetest"
	"github.com/gantry-build/gantry/internal/fault"
)

// member is a node of a test's cluster.
type member struct {
	content content.Store
	server  *httptest.Server

	mu    sync.Mutex
	asked int // pieces
}

// members is a cluster, and the transport by which it is reached.
type members map[string]*member

func (all members) RoundTrip(r *http.Request) (*http.Response, error) {
	m := all[r.URL.Hostname()]
	if m == nil {
		return nil, errors.New("connection refused")
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(m.server.URL, "http://")
	return http.DefaultTransport.RoundTrip(r)
}

// newMembers starts nodes that have blobs; each may have a fault.
func newMembers(t *testing.T, faults map[string]func(http.Handler) http.Handler, blobs ...[]byte) members {
	t.Helper()
	all := members{}
	for id, fault := range faults {
		m := &member{content: cachetest.Start(t).Client.ContentStore()}
		for _, b := range blobs {
			put(t, m.content, b)
		}
		var h http.Handler = &Server{Content: m.content, Find: none, Log: slog.New(slog.DiscardHandler)}
		if fault != nil {
			h = fault(h)
		}
		m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				m.mu.Lock()
				m.asked++
				m.mu.Unlock()
			}
			h.ServeHTTP(w, r)
		}))
		t.Cleanup(m.server.Close)
		all[id] = m
	}
	return all
}

func none(_ context.Context, _, layer digest.Digest) (func(context.Context) error, error) {
	return nil, fault.NotFound("%s is not here", layer)
}

func put(t *testing.T, cs content.Store, b []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b)), MediaType: ocispec.MediaTypeImageLayerGzip}
	kept := content.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	if err := content.WriteBlob(namespaced(t), cs, d.Digest.String(), bytes.NewReader(b), d, kept); err != nil {
		t.Fatal(err)
	}
	return d
}

func namespaced(t *testing.T) context.Context { return cache.WithNamespace(t.Context()) }

// client asks the members of those names.
func (all members) client(t *testing.T, ids ...string) *Client {
	return &Client{
		Content: cachetest.Start(t).Client.ContentStore(), HTTP: &http.Client{Transport: all}, Log: slog.New(slog.DiscardHandler),
		Nodes: func(context.Context) (nodes []Node, _ error) {
			for _, id := range ids {
				nodes = append(nodes, Node{ID: id, Name: id})
			}
			return nodes, nil
		},
	}
}

// random are bytes that do not compress.
func random(n int) []byte {
	b, r := make([]byte, n), rand.NewChaCha8([32]byte{1})
	_, _ = io.ReadFull(r, b)
	return b
}

func wants(t *testing.T, c *Client, d ocispec.Descriptor, want []byte) {
	t.Helper()
	got, err := content.ReadBlob(namespaced(t), c.Content, d)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes have come, %v", len(got), err)
	}
}

// corrupting gives one wrong byte in each piece.
func corrupting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept-Encoding")
		h.ServeHTTP(&liar{w}, r)
	})
}

type liar struct{ http.ResponseWriter }

func (l *liar) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	p[0] ^= 1
	return l.ResponseWriter.Write(p)
}

func (l *liar) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// slow lets each piece wait for a long time.
func slow(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			select {
			case <-time.After(time.Minute):
			case <-r.Context().Done():
			}
		}
		h.ServeHTTP(w, r)
	})
}

// dying serves a few pieces, and breaks off after that.
func dying(pieces int) func(http.Handler) http.Handler {
	var mu sync.Mutex
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			if r.Method == http.MethodGet {
				pieces--
			}
			dead := pieces < 0
			mu.Unlock()
			if dead {
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})
	}
}

// Several members share the work; one that lies, hangs or dies does not spoil it.
func TestFetch(t *testing.T) {
	data := random(20<<20 + 12345)
	for name, faults := range map[string]map[string]func(http.Handler) http.Handler{
		"one":               {"a": nil},
		"two":               {"a": nil, "b": nil},
		"one of two lies":   {"a": nil, "b": corrupting},
		"one of two hangs":  {"a": nil, "b": slow},
		"one of two dies":   {"a": nil, "b": dying(3)},
		"two of three lie":  {"a": corrupting, "b": corrupting, "c": nil},
		"one is not there":  {"a": nil},
		"one has it not":    {"a": nil},
		"wrong, then right": {"a": nil, "b": corrupting, "c": slow},
	} {
		t.Run(name, func(t *testing.T) {
			all := newMembers(t, faults, data)
			ids := []string{"a", "b", "c"}[:len(faults)]
			switch name {
			case "one is not there":
				ids = append(ids, "gone")
			case "one has it not":
				all["empty"] = newMembers(t, map[string]func(http.Handler) http.Handler{"empty": nil})["empty"]
				ids = append(ids, "empty")
			}
			c := all.client(t, ids...)
			d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data)), MediaType: ocispec.MediaTypeImageLayerGzip}
			if err := c.Fetch(t.Context(), d, ""); err != nil {
				t.Fatal(err)
			}
			wants(t, c, d, data)
			if name == "two" && (all["a"].asked == 0 || all["b"].asked == 0) {
				t.Errorf("the one was asked for %d pieces, the other for %d", all["a"].asked, all["b"].asked)
			}
		})
	}
}

// What all say is wrong is not taken, and what nobody has is not found.
func TestFetchFails(t *testing.T) {
	data := random(3 << 20)
	all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": corrupting, "b": corrupting}, data)
	c := all.client(t, "a", "b")
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := c.Fetch(t.Context(), d, ""); !errors.Is(err, errWrong) {
		t.Errorf("wrong bytes: %v", err)
	}
	if _, err := c.Content.Info(namespaced(t), d.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("wrong bytes are in the store: %v", err)
	}
	d.Digest = digest.FromString("nobody has it")
	if err := c.Fetch(t.Context(), d, ""); !errdefs.IsNotFound(err) {
		t.Errorf("a blob that nobody has: %v", err)
	}
	if _, err := c.Resolve(t.Context(), d.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("an image that nobody has: %v", err)
	}
}

// A transfer goes on where an earlier one broke off.
func TestFetchGoesOn(t *testing.T) {
	data := random(12 << 20)
	all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": dying(6), "b": nil}, data)
	c := all.client(t, "a")
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data)), MediaType: ocispec.MediaTypeImageLayerGzip}
	if err := c.Fetch(t.Context(), d, ""); err == nil {
		t.Fatal("the member that dies has given all")
	}
	begun, err := c.Content.Status(namespaced(t), ingest(d))
	if err != nil || begun.Offset < pieceSize {
		t.Fatalf("after the first attempt there is %+v, %v", begun, err)
	}
	c.Nodes = all.client(t, "b").Nodes
	if err := c.Fetch(t.Context(), d, ""); err != nil {
		t.Fatal(err)
	}
	wants(t, c, d, data)
	if got, want := all["b"].asked, int((d.Size-begun.Offset+pieceSize-1)/pieceSize); got != want {
		t.Errorf("%d pieces were asked for, want %d", got, want)
	}
}

// A layer that is there as files only is made once, and travels compressed.
func TestFetchMakesLayers(t *testing.T) {
	all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": nil})
	data := []byte(strings.Repeat("the same again and again ", 200_000))
	manifest, made := digest.FromString("manifest"), 0
	sent := 0
	s := &Server{Content: all["a"].content, Log: slog.New(slog.DiscardHandler)}
	s.Find = func(_ context.Context, of, layer digest.Digest) (func(context.Context) error, error) {
		if of != manifest || layer != digest.FromBytes(data) {
			return nil, fault.NotFound("no")
		}
		return func(context.Context) error {
			made++
			time.Sleep(50 * time.Millisecond)
			put(t, s.Content, data)
			return nil
		}, nil
	}
	all["a"].server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &counter{ResponseWriter: w}
		s.ServeHTTP(rec, r)
		all["a"].mu.Lock()
		sent += rec.n
		all["a"].mu.Unlock()
	})
	c := all.client(t, "a")
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data)), MediaType: ocispec.MediaTypeImageLayer}
	if err := c.Fetch(t.Context(), d, ""); !errdefs.IsNotFound(err) {
		t.Errorf("without its manifest the layer is found: %v", err)
	}
	if err := c.Fetch(t.Context(), d, manifest); err != nil {
		t.Fatal(err)
	}
	wants(t, c, d, data)
	if made != 1 {
		t.Errorf("the layer was made %d times", made)
	}
	if sent > len(data)/20 {
		t.Errorf("%d bytes were sent for %d that repeat", sent, len(data))
	}
}

// counter counts what is written.
type counter struct {
	http.ResponseWriter
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return c.ResponseWriter.Write(p)
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

// An index or manifest is found by its digest, as what it is.
func TestResolve(t *testing.T) {
	for want, v := range map[string]any{
		ocispec.MediaTypeImageIndex:    map[string]any{"schemaVersion": 2, "manifests": []any{}},
		ocispec.MediaTypeImageManifest: map[string]any{"schemaVersion": 2, "config": map[string]any{}, "layers": []any{}},
		dockerManifest:                 map[string]any{"mediaType": dockerManifest},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": nil, "b": corrupting}, data)
		c := all.client(t, "a", "b")
		d, err := c.Resolve(t.Context(), digest.FromBytes(data))
		if err != nil || d.MediaType != want || d.Size != int64(len(data)) {
			t.Errorf("%s: %+v, %v", data, d, err)
		}
		wants(t, c, d, data)
	}
	all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": nil}, []byte(`{"mediaType":"text/plain"}`), []byte("no JSON"))
	for _, text := range []string{`{"mediaType":"text/plain"}`, "no JSON"} {
		if d, err := all.client(t, "a").Resolve(t.Context(), digest.FromString(text)); err == nil {
			t.Errorf("%s is taken for %+v", text, d)
		}
	}
}

// Questions that make no sense are refused.
func TestServerRefuses(t *testing.T) {
	data := random(100)
	all := newMembers(t, map[string]func(http.Handler) http.Handler{"a": nil}, data)
	d := digest.FromBytes(data)
	for path, want := range map[string]int{
		Path + "latest":   http.StatusBadRequest,
		Path + d.String(): http.StatusBadRequest,
		Path + d.String() + "?offset=-1&length=1":                     http.StatusBadRequest,
		Path + d.String() + "?offset=0&length=1e9":                    http.StatusBadRequest,
		Path + d.String() + "?offset=0&length=9999":                   http.StatusOK,
		Path + digest.FromString("x").String() + "?offset=0&length=1": http.StatusNotFound,
	} {
		res, err := http.Get(all["a"].server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || want == http.StatusOK && !bytes.Equal(text, data) {
			t.Error(fmt.Sprint(path, ": ", res.Status, ", want ", want))
		}
	}
}
