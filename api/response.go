package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"

	"github.com/gantry-build/gantry/internal/fault"
)

// response knows whether something was written, after which an error can't be an answer any more.
type response struct {
	http.ResponseWriter
	wrote    bool
	hijacked bool
}

func (w *response) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *response) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		w.wrote = true
		f.Flush()
	}
}

// Hijack implements http.Hijacker.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	w.wrote, w.hijacked = true, true
	return h.Hijack()
}

// serve runs a handler and answers with its error.
func (r *Router) serve(rw http.ResponseWriter, req *http.Request, h HandlerFunc) {
	w := &response{ResponseWriter: rw}
	err := h(w, req)
	if err == nil {
		return
	}
	status := statusOf(err)
	if status >= http.StatusInternalServerError && req.Context().Err() == nil {
		r.log.Error("request failed", "method", req.Method, "path", req.URL.Path, "error", err)
	}
	if w.hijacked {
		return
	}
	if w.wrote {
		panic(http.ErrAbortHandler) // half a body must not end as a whole one does
	}
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	_ = writeJSON(w, status, map[string]string{"message": err.Error()})
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return writeBody(w, v)
}

// writeBody writes v after a status that was sent before.
func writeBody(w http.ResponseWriter, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// readJSON decodes the request's body. An empty one leaves v as it is.
func readJSON(r *http.Request, v any) error {
	err := decodeJSON(r, v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// decodeJSON is readJSON that says by io.EOF that there is no body.
func decodeJSON(r *http.Request, v any) error {
	kind := r.Header.Get("Content-Type")
	if r.ContentLength == 0 && kind == "" {
		return nil
	}
	if t, _, err := mime.ParseMediaType(kind); err != nil || t != "application/json" {
		return fault.Invalid("unsupported Content-Type header (%s): must be 'application/json'", kind)
	}
	d := json.NewDecoder(io.LimitReader(r.Body, 16<<20))
	switch err := d.Decode(v); {
	case errors.Is(err, io.EOF):
		return io.EOF
	case err != nil:
		return fault.Invalid("invalid JSON: %v", err)
	case d.More():
		return fault.Invalid("unexpected content after JSON")
	}
	return nil
}

// flag reads a boolean of the query as Docker does: all but a few words mean true.
func flag(r *http.Request, name string) bool {
	switch r.URL.Query().Get(name) {
	case "", "0", "no", "false", "none", "False":
		return false
	}
	return true
}

// intOf reads a number of the query; def without it.
func intOf(r *http.Request, name string, def int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fault.Invalid("invalid value %q for %q: it is no number", v, name)
	}
	return n, nil
}
