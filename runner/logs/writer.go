package logs

import (
	"bytes"
	"io"
	"time"
	"unicode/utf8"
)

const maxLine = 16 << 10 // Docker's, so that tools which join pieces find what they expect

// Writer returns a writer that cuts a stream into lines. It never returns an error: a full disk must
// not block the container. Close writes an unfinished last line. Not safe for concurrent use.
func (l *Log) Writer(stream string) io.WriteCloser { return &writer{log: l, stream: stream} }

type writer struct {
	log    *Log
	stream string
	buf    []byte
}

func (w *writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		room := maxLine - len(w.buf)
		switch {
		case i >= 0 && i < room:
			w.buf = append(w.buf, p[:i+1]...)
			p = p[i+1:]
			w.flush()
		case len(p) >= room:
			w.buf = append(w.buf, p[:room]...)
			p = p[room:]
			// A character stays whole: its beginning goes into the next piece.
			k := unfinished(w.buf)
			begun := bytes.Clone(w.buf[len(w.buf)-k:])
			w.buf = w.buf[:len(w.buf)-k]
			w.flush()
			w.buf = append(w.buf, begun...)
		default:
			w.buf = append(w.buf, p...)
			p = nil
		}
	}
	return n, nil
}

// unfinished is how many bytes at the end of b are the beginning of a character that goes on.
func unfinished(b []byte) int {
	for k := 1; k < utf8.UTFMax && k < len(b); k++ {
		last := b[len(b)-k:]
		if utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return k
		}
	}
	return 0
}

func (w *writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	w.log.append(Entry{Log: string(w.buf), Stream: w.stream, Time: time.Now().UTC()})
	w.buf = w.buf[:0]
}

func (w *writer) Close() error {
	w.flush()
	if w.log.queue != nil {
		w.log.queue.drain()
	}
	return nil
}
