package api

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/moby/term"
	"golang.org/x/net/websocket"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/logs"
	"github.com/gantry-build/gantry/runner/stream"
)

func registerAttach(r *Router, m *runner.Manager) {
	a := &attachAPI{m}
	r.Handle(http.MethodPost, "/containers/{id}/attach", a.attach)
	r.Handle(http.MethodGet, "/containers/{id}/attach/ws", a.webSocket)
	r.Handle(http.MethodPost, "/containers/{id}/resize", a.resize)
}

type attachAPI struct{ m *runner.Manager }

func (a *attachAPI) resize(w http.ResponseWriter, r *http.Request) error {
	h, width, err := sizeOf(r)
	if err != nil {
		return err
	}
	if err := a.m.Resize(r.Context(), r.PathValue("id"), h, width); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func sizeOf(r *http.Request) (height, width uint32, err error) {
	for name, value := range map[string]*uint32{"height": &height, "width": &width} {
		text := r.URL.Query().Get(name[:1])
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil && (n < 0 || n > math.MaxUint32) {
			err = strconv.ErrRange
		}
		if err != nil {
			return 0, 0, fault.Invalid("invalid resize %s %q: %v", name, text, cmp.Or(errors.Unwrap(err), err))
		}
		*value = uint32(n)
	}
	return height, width, nil
}

// detachKeys are what a client has to type to leave a terminal, Docker's when it does not say. Keys by which nobody can
// leave are refused.
func detachKeys(keys string) ([]byte, error) {
	b, err := term.ToBytes(cmp.Or(keys, "ctrl-p,ctrl-q"))
	if err != nil {
		return nil, fault.Invalid("Invalid detach keys (%s) provided: %v", keys, err)
	}
	return b, nil
}

// attach joins the connection with a container's streams.
func (a *attachAPI) attach(w http.ResponseWriter, r *http.Request) error {
	return a.with(r, func(rec runner.Record, serve func(*peer) error) error {
		p, err := hijack(w, r, rec.Config.Tty)
		if err != nil {
			return err
		}
		return serve(p)
	})
}

// webSocket is attach for browsers (RFC 6455): all output is one stream of binary messages.
func (a *attachAPI) webSocket(w http.ResponseWriter, r *http.Request) error {
	return a.with(r, func(_ runner.Record, serve func(*peer) error) (err error) {
		s := websocket.Server{Handler: func(conn *websocket.Conn) {
			conn.PayloadType = websocket.BinaryFrame
			err = serve(&peer{serving: serving(r), conn: conn, in: bufio.NewReader(conn)})
		}}
		s.ServeHTTP(w, r)
		return err
	})
}

// with attaches to the container that a request names, and hands over what serves a client of it.
func (a *attachAPI) with(r *http.Request, f func(rec runner.Record, serve func(*peer) error) error) error {
	keys, err := detachKeys(r.URL.Query().Get("detachKeys"))
	if err != nil {
		return err
	}
	rec, err := a.m.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	at, cut, err := a.m.Attach(rec.ID)
	if err != nil {
		return err
	}
	defer at.Close()
	return f(rec, func(p *peer) error { return a.serve(r, rec, p, at, cut, keys) })
}

func (a *attachAPI) serve(r *http.Request, rec runner.Record, p *peer, at *stream.Attachment, cut time.Time, keys []byte) error {
	defer p.conn.Close()
	p.stdout, p.stderr = flag(r, "stdout"), flag(r, "stderr")
	p.stdin = flag(r, "stdin") && rec.Config.OpenStdin
	p.endInput = rec.Config.StdinOnce && !rec.Config.Tty
	if rec.Config.Tty {
		p.detach = keys
	}
	if flag(r, "logs") {
		if err := a.replay(r, rec.ID, p, cut); err != nil {
			return nil // told in the stream
		}
	}
	if flag(r, "stream") {
		p.join(at)
	}
	return nil
}

// replay sends what was logged before the attachment.
func (a *attachAPI) replay(r *http.Request, id string, p *peer, cut time.Time) error {
	q := logs.Query{Stdout: p.stdout, Stderr: p.stderr, Tail: -1, Until: cut}
	err := a.m.Logs(r.Context(), id, q, func(e logs.Entry) error { return p.send(streamOf(e), []byte(e.Log)) })
	if err != nil {
		p.fail(err)
	}
	return err
}

// peer is a client that took the connection over.
type peer struct {
	serving        context.Context // ends when the server stops: nothing else ends a taken-over request
	conn           net.Conn
	in             *bufio.Reader // holds what came with the request
	frames         *mux          // nil when the process has a terminal
	stdin          bool
	stdout, stderr bool
	endInput       bool   // the end of the client's input is the end of the process's
	detach         []byte // what the client types to leave; nil: it can't
}

// hijack takes the connection over, answering as moby's clients expect it.
func hijack(w http.ResponseWriter, r *http.Request, tty bool) (*peer, error) {
	h, ok := w.(http.Hijacker)
	if !ok {
		return nil, errdefs.ErrNotImplemented.WithMessage("this connection can't be taken over: use HTTP/1.1")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, err
	}
	media := types.MediaTypeMultiplexedStream
	p := &peer{serving: serving(r), conn: conn, in: rw.Reader, frames: &mux{conn}}
	if tty {
		media, p.frames = types.MediaTypeRawStream, nil
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + media + "\r\n\r\n"
	if r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + media + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := io.WriteString(conn, head); err != nil {
		conn.Close()
		return nil, fmt.Errorf("taking the connection over: %w", err)
	}
	return p, nil
}

// lingering is how long a client may take to notice the end of the output.
const lingering = 5 * time.Second

// join copies until the process ends, the client leaves or the server stops. The client may end its input and go on
// reading.
func (p *peer) join(at *stream.Attachment) {
	defer context.AfterFunc(p.serving, func() { at.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() { p.feed(at) })
	for {
		c, err := at.Next()
		if err != nil || p.send(c.Stream, c.Data) != nil { // the process or the client has gone
			break
		}
	}
	at.Close()
	// A connection closed with input that nobody has read is reset, and output that the client has
	// not read yet is lost with it. So the rest of the input is read, too.
	if w, ok := p.conn.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
		_ = p.conn.SetReadDeadline(time.Now().Add(lingering))
	} else {
		p.conn.Close()
	}
	wg.Wait()
	p.conn.Close()
}

// feed passes the client's input on. It reads also what nobody wants, to notice a client that leaves.
func (p *peer) feed(at *stream.Attachment) {
	if p.stdin {
		in := io.Reader(p.in)
		if p.detach != nil {
			in = term.NewEscapeProxy(in, p.detach)
		}
		_, err := io.Copy(at, in)
		switch {
		case errors.As(err, new(term.EscapeError)):
			at.Close()
		case err == nil && p.endInput:
			at.CloseInput()
		}
	}
	_, _ = io.Copy(io.Discard, p.in)
}

// send writes output that the client asked for.
func (p *peer) send(number byte, data []byte) error {
	if number == stream.Stderr && !p.stderr || number != stream.Stderr && !p.stdout {
		return nil
	}
	if p.frames != nil {
		return p.frames.send(number, data)
	}
	_, err := p.conn.Write(data)
	return err
}

// fail shows an error that came too late for a status.
func (p *peer) fail(err error) {
	p.stdout = true
	end := "\n"
	if p.frames == nil { // a terminal
		end = "\r\n"
	}
	_ = p.send(stream.Stdout, []byte(err.Error()+end))
}

// mux frames output for moby's stdcopy: stream, three zeros, length, data.
type mux struct{ w io.Writer }

func (m *mux) send(number byte, data []byte) error {
	frame := make([]byte, 8, 8+len(data))
	frame[0] = number
	binary.BigEndian.PutUint32(frame[4:], uint32(len(data)))
	_, err := m.w.Write(append(frame, data...))
	return err
}

func streamOf(e logs.Entry) byte {
	if e.Stream == "stderr" {
		return stream.Stderr
	}
	return stream.Stdout
}
