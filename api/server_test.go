package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/runner"
)

func handler() http.Handler {
	return New(Options{Runner: &runner.Manager{}, Version: "1.2.3", Extra: []func(*Router){func(r *Router) {
		r.Handle(http.MethodGet, "/fails/{how}", func(w http.ResponseWriter, req *http.Request) error {
			for _, e := range []error{
				errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrConflict, errdefs.ErrAlreadyExists,
				errdefs.ErrFailedPrecondition,
				errdefs.ErrNotModified, errdefs.ErrUnavailable, errdefs.ErrNotImplemented, errdefs.ErrPermissionDenied,
				errdefs.ErrUnauthenticated,
			} {
				if e.Error() == req.PathValue("how") {
					return fmt.Errorf("wrapped: %w", e)
				}
			}
			return errors.New("else")
		})
		r.Handle(http.MethodGet, "/late", func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "begun")
			return errors.New("too late")
		})
		r.Handle(http.MethodGet, "/named/{path...}", func(w http.ResponseWriter, req *http.Request) error {
			_, err := io.WriteString(w, req.PathValue("path"))
			return err
		})
	}}})
}

func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestRouter(t *testing.T) {
	h := handler()
	for _, x := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/_ping", 200, "OK"}, {"HEAD", "/_ping", 200, ""}, {"GET", "/v1.44/_ping", 200, "OK"},
		{"GET", "/v" + MaxVersion + "/_ping", 200, "OK"},
		{"GET", "/v1.39/_ping", 400, `{"message":"client version 1.39 is too old. Minimum supported API version is 1.40, ` +
			`please upgrade your client to a newer version"}`},
		{"GET", "/v1.9/_ping", 400, ""}, {"GET", "/v2.0/_ping", 400, ""},
		{"GET", "/nowhere", 404, `{"message":"page not found"}`}, {"POST", "/_ping", 404, `{"message":"page not found"}`},
		{"GET", "/v1.44/nowhere", 404, ""},
		{"GET", "/vx/_ping", 404, ""}, {"GET", "/v1.44", 404, ""},
		{"GET", "/v1.44/named/docker.io/library/x:1", 200, "docker.io/library/x:1"}, {"GET", "/named/v1.44/x", 200, "v1.44/x"},
		{"GET", "/containers/nobody/json", 404, `{"message":"No such container: nobody"}`},
	} {
		w := get(h, x.method, x.path)
		body := strings.TrimSpace(w.Body.String())
		if w.Code != x.status || x.body != "" && body != x.body {
			t.Errorf("%s %s: %d %q, want %d %q", x.method, x.path, w.Code, body, x.status, x.body)
		}
		if w.Header().Get("Api-Version") != MaxVersion || w.Header().Get("Ostype") != "linux" ||
			w.Header().Get("Docker-Experimental") != "false" ||
			w.Header().Get("Server") != "Gantry/1.2.3 (linux)" {
			t.Errorf("%s: %v", x.path, w.Header())
		}
	}
}

// An error after the first byte can't change the status: the client sees a body that is cut off, and no
// connection is used again.
func TestLateErrors(t *testing.T) {
	s := httptest.NewServer(handler())
	defer s.Close()
	resp, err := http.Get(s.URL + "/late")
	if err != nil {
		return // the connection went before the status came
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%d %q came as if whole", resp.StatusCode, body)
	}
}

func TestErrors(t *testing.T) {
	h := handler()
	for how, status := range map[string]int{
		"not found": 404, "invalid argument": 400, "conflict": 409, "already exists": 409, "failed precondition": 409, "not modified": 304,
		"unavailable": 503, "not implemented": 501, "permission denied": 403, "unauthorized": 401, "anything": 500,
	} {
		w := get(h, "GET", "/fails/"+strings.ReplaceAll(how, " ", "%20"))
		if w.Code != status {
			t.Errorf("%s: %d, want %d", how, w.Code, status)
		}
		if status == 304 && w.Body.Len() > 0 {
			t.Error("304 has a body")
		}
	}
	if w := get(h, "GET", "/v1.44/fails/not%20found"); strings.TrimSpace(w.Body.String()) != `{"message":"wrapped: not found"}` {
		t.Error(w.Body)
	}
}

func TestSystem(t *testing.T) {
	h := handler()
	for _, path := range []string{"/version", "/info"} {
		w := get(h, "GET", path)
		if w.Code != 200 || !strings.Contains(w.Body.String(), `"1.2.3"`) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestFilters(t *testing.T) {
	parse := func(text string) (filters, error) {
		r := httptest.NewRequest("GET", "/x", nil)
		r.URL.RawQuery = "filters=" + text
		return parseFilters(r)
	}
	for _, text := range []string{`{"a":{"2":true,"1":true}}`, `{"a":["1","2"]}`} {
		f, err := parse(text)
		if err != nil || strings.Join(f.values("a"), "") != "12" || !f.has("a", "1") || f.any("b") || f.only("a") != nil ||
			f.only("b") == nil {
			t.Errorf("%s: %v %v", text, f, err)
		}
	}
	if _, err := parse("x"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	f := filters{"label": {"a": true, "b=1": true}}
	if !f.labels("label", map[string]string{"a": "x", "b": "1"}) || f.labels("label", map[string]string{"a": "x", "b": "2"}) ||
		f.labels("label", nil) {
		t.Error("labels")
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]time.Time{
		"": {}, "0": {}, "5": time.Unix(5, 0), "5.25": time.Unix(5, 250e6), "5.000000001": time.Unix(5, 1),
		"2030-01-02T03:04:05Z": time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	} {
		got, err := timeOf(httptest.NewRequest("GET", "/x?since="+text, nil), "since")
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	if _, err := timeOf(httptest.NewRequest("GET", "/x?since=yesterday", nil), "since"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestEventFilters(t *testing.T) {
	e := runner.Event{Type: "container", Action: "exec_start: sh", ID: "abcdef",
		Attributes: map[string]string{"name": "web", "image": "nginx", "tier": "1"}}
	for text, want := range map[string]bool{
		`{}`: true, `{"type":["container"]}`: true, `{"type":["image"]}`: false, `{"event":["exec_start"]}`: true,
		`{"event":["die"]}`:     false,
		`{"container":["web"]}`: true, `{"container":["abc"]}`: true, `{"container":["x"]}`: false, `{"image":["nginx"]}`: true,
		`{"label":["tier=1"]}`: true,
		`{"label":["tier=2"]}`: false, `{"network":["web"]}`: false, `{"type":["container","image"],"event":["exec_start: sh"]}`: true,
	} {
		r := httptest.NewRequest("GET", "/x", nil)
		q := r.URL.Query()
		q.Set("filters", text)
		r.URL.RawQuery = q.Encode()
		f, err := parseFilters(r)
		if err != nil || wanted(f, e) != want {
			t.Errorf("%s: want %v; %v", text, want, err)
		}
	}
}
