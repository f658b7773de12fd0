package solver_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
)

// objects is what the services that keep caches have in common.
type objects struct {
	mu   sync.Mutex
	data map[string][]byte
}

func (o *objects) get(key string) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, ok := o.data[key]
	return b, ok
}

func (o *objects) put(key string, b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data[key] = b
}

func (o *objects) serve(w http.ResponseWriter, r *http.Request, key string) bool {
	b, ok := o.get(key)
	if ok {
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
	return ok
}

// body reads a request as the service would, AWS's chunks taken apart.
func body(r *http.Request) []byte {
	if !strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		b, _ := io.ReadAll(r.Body)
		return b
	}
	var all []byte
	for in := bufio.NewReader(r.Body); ; {
		head, err := in.ReadString('\n')
		size, _, _ := strings.Cut(strings.TrimSpace(head), ";")
		n, perr := strconv.ParseInt(size, 16, 64)
		if err != nil || perr != nil || n == 0 {
			return all
		}
		chunk := make([]byte, n+2)
		_, _ = io.ReadFull(in, chunk)
		all = append(all, chunk[:n]...)
	}
}

// s3 speaks as much of Amazon's S3 as a cache needs (docs.aws.amazon.com/AmazonS3/latest/API).
func s3(o *objects) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=me/") {
			http.Error(w, "who?", http.StatusForbidden)
			return
		}
		switch {
		case r.Method == http.MethodPut && r.Header.Get("X-Amz-Copy-Source") != "":
			fmt.Fprint(w, "<CopyObjectResult/>")
		case r.Method == http.MethodPut:
			o.put(r.URL.Path, body(r))
			w.Header().Set("ETag", `"x"`)
		case !o.serve(w, r, r.URL.Path):
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "<Error><Code>NoSuchKey</Code></Error>")
		}
	}
}

// azure speaks as much of Azure's Blob service (learn.microsoft.com/rest/api/storageservices).
func azure(o *objects) http.HandlerFunc {
	blocks := objects{data: map[string][]byte{}}
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		missing := "BlobNotFound"
		if q.Get("restype") == "container" {
			missing = "ContainerNotFound"
		}
		if !strings.HasPrefix(r.Header.Get("Authorization"), "SharedKey me:") {
			http.Error(w, "who?", http.StatusForbidden)
			return
		}
		switch {
		case r.Method == http.MethodPut && q.Get("comp") == "block":
			blocks.put(r.URL.Path+q.Get("blockid"), body(r))
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodPut && q.Get("comp") == "blocklist":
			var whole []byte
			for part := range strings.SplitSeq(string(body(r)), "<Latest>") {
				if id, _, ok := strings.Cut(part, "</Latest>"); ok {
					b, _ := blocks.get(r.URL.Path + id)
					whole = append(whole, b...)
				}
			}
			o.put(r.URL.Path, whole)
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodPut:
			o.put(r.URL.Path, body(r))
			w.WriteHeader(http.StatusCreated)
		case !o.serve(w, r, r.URL.Path):
			w.Header().Set("X-Ms-Error-Code", missing)
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

// github speaks the first version of the cache service of GitHub's runners (actions/toolkit, cache).
func github(o *objects) http.HandlerFunc {
	var mu sync.Mutex
	var keys []string // of cache 1, 2, ...
	done := map[int]bool{}
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		path := strings.TrimPrefix(r.URL.Path, "/_apis/artifactcache/")
		n, _ := strconv.Atoi(strings.TrimPrefix(path, "caches/"))
		switch {
		case path == "cache":
			for wanted := range strings.SplitSeq(r.URL.Query().Get("keys"), ",") {
				for i, k := range slices.Backward(keys) {
					if done[i+1] && strings.HasPrefix(k, wanted) {
						_ = json.NewEncoder(w).Encode(map[string]string{"cacheKey": k, "scope": "x",
							"archiveLocation": fmt.Sprintf("http://%s/get/%d", r.Host, i+1)})
						return
					}
				}
			}
			w.WriteHeader(http.StatusNoContent)
		case path == "caches":
			var asked struct{ Key string }
			_ = json.NewDecoder(r.Body).Decode(&asked)
			if slices.Contains(keys, asked.Key) {
				w.WriteHeader(http.StatusConflict)
				fmt.Fprint(w, `{"typeKey":"ArtifactCacheItemAlreadyExistsException","message":"there"}`)
				return
			}
			keys = append(keys, asked.Key)
			fmt.Fprintf(w, `{"cacheId":%d}`, len(keys))
		case r.Method == http.MethodPatch:
			var begin int
			_, _ = fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-", &begin)
			old, _ := o.get(strconv.Itoa(n))
			o.put(strconv.Itoa(n), append(old[:begin:begin], body(r)...))
		case r.Method == http.MethodPost:
			done[n] = true
		case !o.serve(w, r, strings.TrimPrefix(r.URL.Path, "/get/")):
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

func token(t *testing.T) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{
		"ac":  `[{"Scope":"refs/heads/main","Permission":3}]`,
		"nbf": time.Now().Add(-time.Hour).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(claims) + "." +
		enc.EncodeToString([]byte("signed"))
}

// A cache that one machine has put into a service is found there by another.
func TestRemoteCaches(t *testing.T) {
	for kind, c := range map[string]struct {
		service func(*objects) http.HandlerFunc
		attrs   func(url string) map[string]string
	}{
		"s3": {s3, func(url string) map[string]string {
			return map[string]string{"endpoint_url": url, "use_path_style": "true", "bucket": "b", "region": "r", "access_key_id": "me",
				"secret_access_key": "secret"}
		}},
		"azblob": {azure, func(url string) map[string]string {
			return map[string]string{"account_url": url + "/me", "account_name": "me",
				"secret_access_key": base64.StdEncoding.EncodeToString([]byte("secret"))}
		}},
		"gha": {github, func(url string) map[string]string {
			return map[string]string{"url": url + "/", "token": token(t), "scope": "s", "version": "1"}
		}},
	} {
		t.Run(kind, func(t *testing.T) {
			o := &objects{data: map[string][]byte{}}
			service := httptest.NewServer(c.service(o))
			defer service.Close()
			dir := t.TempDir()
			write(t, dir, map[string]string{"Dockerfile": "FROM scratch AS a\nCOPY f /f\nFROM scratch\nCOPY --from=a /f /g\n",
				"f": strings.Repeat("text", 1000)})
			attrs := c.attrs(service.URL)
			to := maps.Clone(attrs)
			to["mode"] = "max"
			opt := request{dir: dir}.solveOpt(t)
			opt.CacheExports = []client.CacheOptionsEntry{{Type: kind, Attrs: to}}
			if cached := solveCounting(t, start(t), opt); cached != 0 {
				t.Errorf("%d steps of the first build came from a cache", cached)
			}
			if len(o.data) == 0 {
				t.Fatal("nothing was stored")
			}
			opt = request{dir: dir}.solveOpt(t)
			opt.CacheImports = []client.CacheOptionsEntry{{Type: kind, Attrs: attrs}}
			if cached := solveCounting(t, start(t), opt); cached != 2 {
				t.Errorf("%d steps came from the cache, want both", cached)
			}
		})
	}
}

// solveCounting builds and returns how many COPY steps came from a cache.
func solveCounting(t *testing.T, b *bench, opt client.SolveOpt) (cached int) {
	t.Helper()
	status := make(chan *client.SolveStatus)
	seen := map[string]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range status {
			for _, v := range s.Vertexes {
				if v.Cached && strings.Contains(v.Name, "] COPY") {
					seen[v.Digest.String()] = true
				}
			}
		}
	}()
	_, err := b.client.Solve(t.Context(), nil, opt, status)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return len(seen)
}
