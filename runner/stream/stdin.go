package stream

import (
	"io"
	"sync"
)

// stdinPipe joins the clients that write with the one process that reads. Unlike io.Pipe it lets
// one writer give up while the others go on.
type stdinPipe struct {
	data chan []byte
	rest []byte // of what the reader took; the reader's own

	endOnce, goneOnce sync.Once
	end               chan struct{} // closed at the end of input
	gone              chan struct{} // closed when nobody reads any more
}

func newStdinPipe() *stdinPipe {
	return &stdinPipe{data: make(chan []byte), end: make(chan struct{}), gone: make(chan struct{})}
}

// Read is for one reader. It returns io.EOF after closeWrite, io.ErrClosedPipe after abandon.
func (p *stdinPipe) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		select {
		case p.rest = <-p.data:
		case <-p.end:
			return 0, io.EOF
		case <-p.gone:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// write waits until the reader takes a copy of b, or until giveUp is closed.
func (p *stdinPipe) write(b []byte, giveUp <-chan struct{}) (int, error) {
	select {
	case p.data <- append([]byte(nil), b...):
		return len(b), nil
	case <-p.end:
	case <-p.gone:
	case <-giveUp:
	}
	return 0, io.ErrClosedPipe
}

// closeWrite ends the input: the reader gets io.EOF.
func (p *stdinPipe) closeWrite() { p.endOnce.Do(func() { close(p.end) }) }

// abandon ends the reading: writers get io.ErrClosedPipe.
func (p *stdinPipe) abandon() { p.goneOnce.Do(func() { close(p.gone) }) }
