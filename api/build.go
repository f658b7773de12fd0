package api

import (
	"net/http"

	"github.com/moby/buildkit/session"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

// Build serves the two endpoints through which Docker's clients reach BuildKit.
type Build struct {
	Sessions *session.Manager
	GRPC     *grpc.Server
}

// Routes adds POST /session (a client's session) and POST /grpc (BuildKit's API), each of which
// takes over the connection.
func (b *Build) Routes(r *Router) {
	r.Handle(http.MethodPost, "/session", b.session)
	r.Handle(http.MethodPost, "/grpc", b.grpc)
}

func (b *Build) session(w http.ResponseWriter, r *http.Request) error {
	return b.Sessions.HandleHTTPRequest(r.Context(), w, r)
}

func (b *Build) grpc(w http.ResponseWriter, r *http.Request) error {
	h, ok := w.(http.Hijacker)
	if !ok {
		return http.ErrNotSupported
	}
	conn, _, err := h.Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")); err != nil {
		return err
	}
	(&http2.Server{}).ServeConn(conn, &http2.ServeConnOpts{Context: r.Context(), Handler: b.GRPC})
	return nil
}
