package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// Query says which entries to read.
type Query struct {
	Stdout, Stderr bool
	Since, Until   time.Time // zero is no bound
	Tail           int       // last lines; negative is all
	Follow         bool
	Done           <-chan struct{} // ends Follow, after what is written by then was read
}

// errUntil ends a read whose time bound is passed.
var errUntil = errors.New("past until")

// Read calls fn with each entry in order, on the caller's goroutine, until the end of the log, or
// with Follow until q.Done, ctx's end or an error of fn, which it returns.
func (l *Log) Read(ctx context.Context, q Query, fn func(Entry) error) error {
	if l.path == "" {
		return errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading")
	}
	files, err := l.tail(q.Tail)
	if err != nil {
		return fmt.Errorf("reading container log: %w", err)
	}
	r := &reader{log: l, query: q, fn: fn}
	defer func() { r.file.Close() }()
	for i, f := range files {
		if r.file != nil {
			r.file.Close()
		}
		r.file, r.buf = f, bufio.NewReader(f)
		if err = r.drain(ctx); err != nil {
			for _, rest := range files[i+1:] {
				rest.Close()
			}
			break
		}
	}
	if err == nil && q.Follow {
		err = r.follow(ctx)
	}
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

type reader struct {
	log   *Log
	query Query
	fn    func(Entry) error
	file  *os.File
	buf   *bufio.Reader
	part  []byte    // of a line that is being written
	last  time.Time // of the last entry that was read
	again bool      // the file is not the one that follows: what is not after last was read already
}

// drain passes on all complete lines there are.
func (r *reader) drain(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := r.buf.ReadBytes('\n')
		r.part = append(r.part, line...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = r.pass(r.part)
		r.part = r.part[:0]
		if err != nil {
			return err
		}
	}
}

func (r *reader) pass(line []byte) error {
	var e Entry
	if json.Unmarshal(line, &e) != nil { // cut off by a kill or a full disk
		return nil
	}
	if r.again && !e.Time.After(r.last) {
		return nil
	}
	r.last = e.Time
	q := r.query
	if !q.Until.IsZero() && e.Time.After(q.Until) {
		return errUntil
	}
	if e.Time.Before(q.Since) || e.Stream == "stdout" && !q.Stdout || e.Stream == "stderr" && !q.Stderr {
		return nil
	}
	return r.fn(e)
}

func (r *reader) follow(ctx context.Context) error {
	for {
		changed := r.log.watch() // taken before reading, so that no write is missed
		ended := isClosed(r.query.Done)
		if err := r.drain(ctx); err != nil {
			return err
		}
		switch next, err := r.next(); {
		case err != nil:
			return err
		case next != nil:
			if err := r.drain(ctx); err != nil { // what came before the rename
				next.Close()
				return err
			}
			r.file.Close()
			r.file, r.part = next, nil
			r.buf.Reset(next)
			continue
		case ended:
			return nil
		}
		select {
		case <-changed:
		case <-r.query.Done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next opens the file after the current one, when there is one.
func (r *reader) next() (*os.File, error) {
	cur, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	for i := range max(r.log.opts.MaxFiles, 1) {
		st, err := os.Stat(r.log.name(i))
		if err == nil && os.SameFile(st, cur) {
			if i == 0 {
				return nil, nil
			}
			return os.Open(r.log.name(i - 1))
		}
	}
	// Rotated away altogether: go on with the oldest that is left.
	r.again = true
	for i := max(r.log.opts.MaxFiles, 1) - 1; i >= 0; i-- {
		f, err := openPacked(r.log.name(i))
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
	}
	return nil, nil
}

// tail opens the log's files, oldest first, the first one placed so that n lines follow in all.
func (l *Log) tail(n int) ([]*os.File, error) {
	l.mu.Lock() // no rotation in between
	defer l.mu.Unlock()
	var files []*os.File
	for i := range max(l.opts.MaxFiles, 1) {
		f, err := openPacked(l.name(i))
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		files = append([]*os.File{f}, files...)
		if n < 0 {
			continue
		}
		found, err := seekLines(f, n)
		if err != nil {
			return nil, err
		}
		if n -= found; n <= 0 {
			break
		}
	}
	if len(files) == 0 {
		return nil, os.ErrNotExist
	}
	return files, nil
}

// seekLines places f before its last n lines and says how many there are.
func seekLines(f *os.File, n int) (int, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, err
	}
	buf := make([]byte, 32<<10)
	found, pos := 0, end
	for pos > 0 {
		size := min(int64(len(buf)), pos)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil {
			return 0, err
		}
		for b := buf[:size]; ; {
			i := bytes.LastIndexByte(b, '\n')
			if i < 0 {
				break
			}
			b = b[:i]
			if pos+int64(i) == end-1 {
				continue // the end of the last line is not the start of another
			}
			if found++; found == n {
				_, err = f.Seek(pos+int64(i)+1, io.SeekStart)
				return n, err
			}
		}
	}
	if end > 0 {
		found++
	}
	_, err = f.Seek(0, io.SeekStart)
	return found, err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
