// Package peer moves blobs between the members of a cluster by their digests, so that what one node's store holds needs no registry to
// get to the others. A Server offers what a store has, a Client brings it here: from several members at once, in pieces, so that one
// that is slow or goes away does not hold it up; what arrives counts only if it is what its digest says. Names are not known here.
// Who is a member, and how one is reached, the cluster says.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"github.com/gantry-build/gantry/cache"
)

// Path is where a member offers its blobs. HEAD Path+DIGEST tells whether it has one, GET Path+DIGEST?offset=N&length=N gives a piece.
// of=DIGEST is the manifest to which a layer belongs: one that is there as files only is made into bytes. With Accept-Encoding: zstd a
// piece may come compressed.
const Path = "/v1/blobs/"

const (
	// maxPiece is the largest piece that is given, in bytes.
	maxPiece = 8 << 20
	// sendWithin is how long a piece may take to be taken.
	sendWithin = 5 * time.Minute
)

// Server offers the blobs of a store. All fields are needed. It is safe for concurrent use.
type Server struct {
	Content content.Store
	// Find looks for a layer of a manifest that is here as files only, and returns what makes its bytes. errdefs.ErrNotFound: it is
	// not here.
	Find func(ctx context.Context, manifest, layer digest.Digest) (bring func(context.Context) error, err error)
	Log  *slog.Logger

	making singleflight.Group
}

// ServeHTTP implements http.Handler, below Path. It asks for no permission: who gets here is a member.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := cache.WithNamespace(r.Context())
	d, err := digest.Parse(strings.TrimPrefix(r.URL.Path, Path))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, err = s.Content.Info(ctx, d)
	var bring func(context.Context) error
	if of, perr := digest.Parse(r.URL.Query().Get("of")); perr == nil && errdefs.IsNotFound(err) {
		bring, err = s.Find(ctx, of, d)
	}
	switch {
	case errdefs.IsNotFound(err):
		http.Error(w, fmt.Sprintf("%s is not here", d), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case r.Method == http.MethodHead:
		return
	}
	if err := s.give(ctx, w, r, d, bring); err != nil && ctx.Err() == nil {
		s.Log.Warn("another node could not be given a blob", "digest", d, "error", err)
	}
}

// give sends a piece. The beginning of the answer goes out before the bytes are made, so that who asks knows that they will come.
func (s *Server) give(
	ctx context.Context, w http.ResponseWriter, r *http.Request, d digest.Digest, bring func(context.Context) error,
) error {
	offset, oerr := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	length, lerr := strconv.ParseInt(r.URL.Query().Get("length"), 10, 64)
	if err := errors.Join(oerr, lerr); err != nil || offset < 0 || length <= 0 || length > maxPiece {
		http.Error(w, fmt.Sprintf("offset and length (at most %d) say which piece", maxPiece), http.StatusBadRequest)
		return nil
	}
	compress := r.Header.Get("Accept-Encoding") == "zstd"
	if compress {
		w.Header().Set("Content-Encoding", "zstd")
	}
	c := http.NewResponseController(w)
	if err := errors.Join(c.SetWriteDeadline(time.Now().Add(sendWithin)), c.Flush()); err != nil {
		return err
	}
	data, err := s.piece(ctx, d, offset, length, bring)
	if err == nil && compress {
		data, err = compressed(data)
	}
	if err == nil {
		_, err = w.Write(data)
		return err
	}
	s.Log.Warn("another node could not be given a blob", "digest", d, "error", err)
	panic(http.ErrAbortHandler) // an end in good order would look like an empty piece
}

func (s *Server) piece(ctx context.Context, d digest.Digest, offset, length int64, bring func(context.Context) error) ([]byte, error) {
	if bring != nil {
		// Who began may go away, and others wait for the same.
		_, err, _ := s.making.Do(d.String(), func() (any, error) { return nil, bring(context.WithoutCancel(ctx)) })
		if err != nil {
			return nil, err
		}
	}
	ra, err := s.Content.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	data := make([]byte, min(length, max(0, ra.Size()-offset)))
	if n, err := ra.ReadAt(data, offset); n < len(data) {
		return nil, err
	}
	return data, nil
}

func compressed(data []byte) ([]byte, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return z.EncodeAll(data, nil), nil
}
