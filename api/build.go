package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/moby/buildkit/session"
	"google.golang.org/grpc"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// Build serves the two endpoints through which Docker's clients reach BuildKit.
type Build struct {
	sessions *session.Manager
	grpc     *grpc.Server
	conns    *handoff // connections that speak gRPC from now on

	mu      sync.Mutex
	running map[string]context.CancelFunc // builds of version 2, by the ID that the client gave

	// Pruned is told that records of the cache are gone; may be nil.
	Pruned func(runner.Event)
}

// NewBuild returns the endpoints over the builder's sessions and its API.
func NewBuild(sessions *session.Manager, server *grpc.Server) *Build {
	return &Build{sessions: sessions, grpc: server, conns: newHandoff(&net.UnixAddr{Name: "grpc", Net: "unix"}),
		running: map[string]context.CancelFunc{}}
}

// Routes adds POST /session (a client's session) and POST /grpc (BuildKit's API), each of which
// takes over the connection.
func (b *Build) Routes(r *Router) {
	r.Handle(http.MethodPost, "/session", b.session)
	r.Handle(http.MethodPost, "/grpc", b.upgradeToGRPC)
	r.Handle(http.MethodPost, "/build/prune", b.prune)
	r.Handle(http.MethodPost, "/build", b.classic)
	r.Handle(http.MethodPost, "/build/cancel", b.cancel)
}

func (b *Build) session(w http.ResponseWriter, r *http.Request) error {
	proto := r.Header.Get("Upgrade")
	if proto == "" {
		return fault.Invalid("no upgrade proto in request")
	}
	if proto != "h2c" {
		return fault.Invalid("protocol %s not supported", proto)
	}
	conn, err := upgrade(w, proto)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A client that has gone ends its session now, not at the next failed health check.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer cancel(nil)
	err = b.sessions.HandleConn(ctx, &untilEOF{conn, cancel}, r.Header)
	if errors.Is(context.Cause(ctx), io.EOF) {
		return nil
	}
	return err
}

// untilEOF is a connection whose end ends the work for it.
type untilEOF struct {
	net.Conn
	ended context.CancelCauseFunc
}

func (c *untilEOF) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.ended(io.EOF)
	}
	return n, err
}

func (c *untilEOF) Close() error {
	c.ended(io.EOF) // also where nobody reads any more
	return c.Conn.Close()
}

// upgrade takes over the request's connection and answers that it speaks proto from now on.
func upgrade(w http.ResponseWriter, proto string) (net.Conn, error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", proto)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// ServeHTTP implements http.Handler for those who may build here by other ways: it takes over the connection for BuildKit's API.
func (b *Build) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := b.upgradeToGRPC(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (b *Build) upgradeToGRPC(w http.ResponseWriter, _ *http.Request) error {
	conn, err := upgrade(w, "h2c")
	if err == nil {
		b.conns.offer(conn)
	}
	return err
}
