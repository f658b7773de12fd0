// Package stream joins one process's pipes with its log and with the clients that are attached to it. The
// pipes are FIFOs that the shim holds open, so that they wait while no daemon is there.
package stream

import (
	"io"
	"sync"
	"time"

	"github.com/gantry-build/gantry/runner/logs"
)

// Stream numbers are those of Docker's stdcopy framing.
const (
	Stdin  byte = 0
	Stdout byte = 1
	Stderr byte = 2
)

// Chunk is a piece of output.
type Chunk struct {
	Stream byte
	Data   []byte
}

// clientBuffer is how much output waits for one client. A client that stops reading then stops the
// container, as in Docker: output is never thrown away.
const clientBuffer = 1 << 20

// Streams join one process's pipes with its log and any number of attached clients. They outlive
// runs: a client may attach before the start. They are safe for concurrent use.
type Streams struct {
	log *logs.Log // nil for exec

	mu      sync.Mutex
	lines   map[byte]io.WriteCloser // into the log, by stream
	clients map[*Attachment]bool
	stdin   *stdinPipe
	hurried bool // the run is over: do not wait for clients any more
}

// New returns the streams of a process. log is nil when nothing is kept.
func New(log *logs.Log) *Streams {
	s := &Streams{log: log, clients: map[*Attachment]bool{}, stdin: newStdinPipe()}
	s.openLog()
	return s
}

func (s *Streams) openLog() {
	if s.log != nil {
		s.lines = map[byte]io.WriteCloser{Stdout: s.log.Writer("stdout"), Stderr: s.log.Writer("stderr")}
	}
}

// Emit passes output on: to the log first, then to every client, waiting for slow ones.
func (s *Streams) Emit(stream byte, p []byte) {
	s.mu.Lock()
	if w := s.lines[stream]; w != nil {
		_, _ = w.Write(p)
	}
	clients := make([]*Attachment, 0, len(s.clients))
	for a := range s.clients {
		clients = append(clients, a)
	}
	hurried := s.hurried
	s.mu.Unlock()
	for _, a := range clients {
		a.push(Chunk{stream, append([]byte(nil), p...)}, hurried)
	}
}

// Hurry stops waiting for slow clients. What is left in the pipes, 64 KiB each at most, is queued for
// them all the same.
func (s *Streams) Hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried = true
	for a := range s.clients {
		a.mu.Lock()
		a.hurried = true
		a.ready.Broadcast()
		a.mu.Unlock()
	}
}

// Attach adds a client. What is logged until the returned time is not passed to it, all else is.
func (s *Streams) Attach() (*Attachment, time.Time) {
	a := &Attachment{streams: s, gone: make(chan struct{})}
	a.ready.L = &a.mu
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[a] = true
	a.stdin = s.stdin
	return a, time.Now()
}

func (s *Streams) detach(a *Attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, a)
}

// input is what the next, or current, run reads.
func (s *Streams) input() *stdinPipe {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin
}

// End tells all clients that the run is over, writes an unfinished line to the log, and makes ready
// for another run.
func (s *Streams) End() {
	s.mu.Lock()
	clients := s.clients
	s.clients = map[*Attachment]bool{}
	for _, w := range s.lines {
		_ = w.Close()
	}
	s.openLog()
	s.stdin.abandon()
	s.stdin = newStdinPipe()
	s.hurried = false
	s.mu.Unlock()
	for a := range clients {
		a.finish()
	}
}

// Attachment is one client of a process's streams. Close it.
type Attachment struct {
	streams *Streams
	stdin   *stdinPipe
	gone    chan struct{} // closed by Close, for a Write that waits

	mu      sync.Mutex
	ready   sync.Cond // something below changed
	queue   []Chunk
	size    int
	ended   bool // no more will come
	closed  bool // the client is gone
	hurried bool // push does not wait
}

// Next returns the next piece of output, waiting for it; io.EOF when the process has ended or
// the attachment was closed.
func (a *Attachment) Next() (Chunk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) == 0 && !a.ended && !a.closed {
		a.ready.Wait()
	}
	if a.closed || len(a.queue) == 0 {
		return Chunk{}, io.EOF
	}
	c := a.queue[0]
	a.queue = a.queue[1:]
	a.size -= len(c.Data)
	a.ready.Broadcast()
	return c, nil
}

func (a *Attachment) push(c Chunk, hurried bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hurried = a.hurried || hurried
	for a.size >= clientBuffer && !a.closed && !a.ended && !a.hurried {
		a.ready.Wait()
	}
	if a.closed || a.ended {
		return
	}
	a.queue = append(a.queue, c)
	a.size += len(c.Data)
	a.ready.Broadcast()
}

func (a *Attachment) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.ready.Broadcast()
}

// Write sends input to the process. It waits for the process to be started and to read, and fails
// when it ends, or the attachment is closed.
func (a *Attachment) Write(p []byte) (int, error) { return a.stdin.write(p, a.gone) }

// CloseInput gives the process the end of its input.
func (a *Attachment) CloseInput() { a.stdin.closeWrite() }

// Close detaches. The process goes on.
func (a *Attachment) Close() error {
	a.streams.detach(a)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	a.queue = nil
	close(a.gone)
	a.ready.Broadcast()
	return nil
}
