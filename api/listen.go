package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Server answers both protocols on one listener: HTTP/1 goes to the Engine API and HTTP/2 with
// prior knowledge to BuildKit's gRPC.
type Server struct {
	stop   context.CancelFunc // ends every request's context
	l      net.Listener
	http   *http.Server
	build  *Build
	toHTTP *handoff
	wg     sync.WaitGroup // the server's own goroutines
	busy   sync.WaitGroup // handlers

	mu     sync.Mutex
	open   map[*conn]struct{} // whoever serves them
	used   time.Time          // when the last of them ended
	closed bool
}

// Serve starts to answer on l, which the server owns from now on, with b's gRPC server.
func Serve(l net.Listener, h http.Handler, b *Build) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{
		stop: stop, l: l, build: b, toHTTP: newHandoff(l.Addr()), open: map[*conn]struct{}{}, used: time.Now(),
	}
	s.http = &http.Server{
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return context.WithValue(ctx, servingKey{}, ctx) },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.busy.Add(1)
			defer s.busy.Done()
			h.ServeHTTP(w, r)
		}),
	}
	s.wg.Go(func() { _ = s.http.Serve(s.toHTTP) })
	s.wg.Go(func() { _ = b.grpc.Serve(b.conns) })
	s.wg.Go(s.accept)
	return s
}

// servingKey is the key of the server's own context in that of each request.
type servingKey struct{}

// serving is a context that ends with the server. A request's own ends when the client has no more to say,
// which is no reason for a handler that has taken the connection over to stop talking.
func serving(r *http.Request) context.Context {
	if ctx, ok := r.Context().Value(servingKey{}).(context.Context); ok {
		return ctx
	}
	return context.Background()
}

// Used is when the server was last of use to somebody: now while a connection is open, and else when the
// last one ended, or, before the first, when the server began.
func (s *Server) Used() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) > 0 {
		return time.Now()
	}
	return s.used
}

// Close ends every connection, also those that a handler has taken over (attach, exec, session), and
// waits until no handler is left to accept.
func (s *Server) Close() {
	s.l.Close()
	s.toHTTP.Close()
	s.build.conns.Close()
	_ = s.http.Close()
	s.build.grpc.Stop()
	s.stop()
	s.closeConns()
	s.wg.Wait()
	s.settle()
}

func (s *Server) closeConns() {
	s.mu.Lock()
	s.closed = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// track makes a connection of the server; false when that is closed.
func (s *Server) track(nc net.Conn) (*conn, bool) {
	c := &conn{Conn: nc, r: bufio.NewReader(nc)}
	c.forget = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, c)
		s.used = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.open[c] = struct{}{}
	}
	return c, !s.closed
}

// settle waits for handlers, which use rooms that are closed next. Their requests are cancelled; one
// that does not care is left behind after a while.
func (s *Server) settle() {
	done := make(chan struct{})
	go func() { s.busy.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		slog.Warn("stopping without handlers that have not ended")
	}
}

func (s *Server) accept() {
	for {
		nc, err := s.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of file descriptors, say: others are closing
			continue
		}
		c, ok := s.track(nc)
		if !ok {
			nc.Close()
			continue
		}
		s.wg.Go(func() { s.dispatch(c) })
	}
}

// dispatch looks at the first bytes: a gRPC client opens with "PRI * HTTP/2.0".
func (s *Server) dispatch(c *conn) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second)) // a client that says nothing is none
	head, err := c.r.Peek(3)
	_ = c.SetReadDeadline(time.Time{})
	switch {
	case err != nil && !(errors.Is(err, io.EOF) && len(head) > 0):
		c.Close()
	case string(head) == "PRI":
		s.build.conns.offer(c)
	default:
		s.toHTTP.offer(c)
	}
}

// conn is a connection whose first bytes were looked at.
type conn struct {
	net.Conn
	r      *bufio.Reader
	once   sync.Once
	forget func()
}

func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *conn) Close() error {
	c.once.Do(c.forget)
	return c.Conn.Close()
}

// CloseWrite lets a hijacking handler end its direction alone.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// handoff is a listener fed by another.
type handoff struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff(a net.Addr) *handoff {
	return &handoff{addr: a, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handoff) offer(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handoff) Addr() net.Addr { return h.addr }
