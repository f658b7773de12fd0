package registry

import (
	"encoding/json"
	"fmt"
	"net/http"

	"golang.org/x/sys/unix"
)

// roomToWork is what distribution needs beyond a blob itself: links, upload
// state, a manifest.
const roomToWork = 1 << 20

// refuseWhenFull answers pushes that do not fit with 507 and a sentence.
// Distribution would answer 500 "unknown error", which clients take for a
// passing trouble and try again and again.
func refuseWhenFull(root string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !writes(r.Method) {
			next.ServeHTTP(w, r)
			return
		}
		if !hasRoom(root, max(r.ContentLength, 0)) {
			serveFull(w, root)
			return
		}
		next.ServeHTTP(&fullWriter{ResponseWriter: w, root: root}, r)
	})
}

func writes(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// hasRoom is true when the system does not tell.
func hasRoom(root string, size int64) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return true
	}
	free := int64(st.Bavail) * int64(st.Bsize) // its type is the architecture's
	return free >= size+roomToWork && (st.Files == 0 || st.Ffree > 0)
}

func serveFull(w http.ResponseWriter, root string) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]problem{"errors": {{
		// None of the specification's codes fits, and clients take UNKNOWN
		// (go-containerregistry) for a passing trouble too.
		Code:    "INSUFFICIENT_STORAGE",
		Message: fmt.Sprintf("the registry's disk is full (%s on the registry's host); free space there and push again", root),
	}}})
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInsufficientStorage), http.StatusInsufficientStorage)
		return
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/json")
	// The rest of the body is not worth reading.
	h.Set("Connection", "close")
	w.WriteHeader(http.StatusInsufficientStorage)
	// A client that has gone away needs no answer.
	_, _ = w.Write(body)
}

// fullWriter swaps a 500 for 507 when the disk ran full during the request.
type fullWriter struct {
	http.ResponseWriter
	root    string
	swapped bool
}

func (w *fullWriter) WriteHeader(status int) {
	if status == http.StatusInternalServerError && !hasRoom(w.root, 0) {
		w.swapped = true
		serveFull(w.ResponseWriter, w.root)
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.swapped {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap serves http.ResponseController.
func (w *fullWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
