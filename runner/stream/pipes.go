package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/fifo"

	"github.com/gantry-build/gantry/cache"
)

// Pipes copy between a process's FIFOs and its streams. It is a cio.IO of our own for two reasons:
// the FIFOs must stay when this process lets go of a live container, and the end of input has to be
// told to the shim, which keeps a writer open so that a dead daemon is not an end of input.
type Pipes struct {
	cfg    cio.Config
	dir    string
	cancel context.CancelFunc // of FIFOs that the other side has not opened
	pipes  []io.Closer
	out    sync.WaitGroup // output copiers
	in     sync.WaitGroup
	closer chan client.Process // told once, when the process has started
	to     *Streams
	moved  atomic.Int64 // when output was last passed on, in nanoseconds since 1970
	moving atomic.Int32 // copiers that are passing output on
	once   sync.Once
}

// Paths names the FIFOs of a process in a directory of its own.
func Paths(dir string, tty, stdin bool) cio.Config {
	cfg := cio.Config{Terminal: tty, Stdout: filepath.Join(dir, "out")}
	if !tty {
		cfg.Stderr = filepath.Join(dir, "err")
	}
	if stdin {
		cfg.Stdin = filepath.Join(dir, "in")
	}
	return cfg
}

// Open makes or re-opens the FIFOs of cfg and starts copying. It does not wait for the shim to
// open its ends.
func Open(dir string, cfg cio.Config, s *Streams) (_ *Pipes, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with Release or Close, not with a request
	io := &Pipes{cfg: cfg, dir: dir, cancel: cancel, closer: make(chan client.Process, 1), to: s}
	defer func() {
		if err != nil {
			io.Release()
			err = fmt.Errorf("opening the container's pipes: %w", err)
		}
	}()
	for stream, path := range map[byte]string{Stdout: cfg.Stdout, Stderr: cfg.Stderr} {
		if path == "" {
			continue
		}
		f, err := fifo.OpenFifo(ctx, path, syscall.O_RDONLY|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		io.pipes = append(io.pipes, f)
		io.out.Go(func() { io.copyOut(f, stream) })
	}
	if cfg.Stdin == "" {
		return io, nil
	}
	f, err := fifo.OpenFifo(ctx, cfg.Stdin, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	io.pipes = append(io.pipes, f)
	src := s.input()
	io.in.Go(func() { io.copyIn(f, src) })
	return io, nil
}

func (s *Pipes) copyOut(r io.Reader, stream byte) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			s.moving.Add(1)
			s.to.Emit(stream, buf[:n])
			s.moved.Store(time.Now().UnixNano())
			s.moving.Add(-1)
		}
		if err != nil {
			return
		}
	}
}

// copyIn feeds the process, and passes the end of input on when a client asked for it.
func (s *Pipes) copyIn(w io.WriteCloser, r io.Reader) {
	_, err := io.Copy(w, r)
	w.Close()
	p := <-s.closer // nil when the process is gone
	if err != nil || p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(cache.WithNamespace(context.Background()), 10*time.Second)
	defer cancel()
	_ = p.CloseIO(ctx, client.WithStdinCloser)
}

// Started tells whose input to end. Before that an end of input waits: the shim has no pipe yet.
func (s *Pipes) Started(p client.Process) { s.once.Do(func() { s.closer <- p }) }

// Drain waits until all output is copied; no longer than d for clients that read slowly, and a
// second more for a process that left the container's namespaces and holds the pipes.
func (s *Pipes) Drain(d time.Duration) {
	done := make(chan struct{})
	go func() { s.out.Wait(); close(done) }() // ends with Release at the latest
	for _, limit := range []time.Duration{d, time.Second} {
		select {
		case <-done:
			return
		case <-time.After(limit):
			s.to.Hurry()
		}
	}
}

// Settle waits as Drain does, but not for a process that its dead parent has left behind and that holds the
// pipes: when they have been quiet for a while, all that the parent has printed is there.
func (s *Pipes) Settle(d time.Duration) {
	const quiet = 500 * time.Millisecond
	done := make(chan struct{})
	go func() { s.Drain(d); close(done) }() // ends by itself
	begin := time.Now()
	for {
		select {
		case <-done:
			return
		case <-time.After(quiet / 10):
		}
		last := max(s.moved.Load(), begin.UnixNano())
		if s.moving.Load() == 0 && time.Since(time.Unix(0, last)) > quiet {
			return
		}
	}
}

// Config implements cio.IO.
func (s *Pipes) Config() cio.Config { return s.cfg }

// Cancel implements cio.IO: it gives up FIFOs that the shim never opened.
func (s *Pipes) Cancel() { s.cancel() }

// Wait implements cio.IO.
func (s *Pipes) Wait() { s.Drain(3 * time.Second) }

// Release closes this process's ends. The shim's are not touched.
func (s *Pipes) Release() {
	s.cancel()
	s.once.Do(func() { close(s.closer) })
	for _, p := range s.pipes {
		_ = p.Close()
	}
	s.to.Hurry() // a copier may wait for a client
	s.out.Wait()
}

// Close implements cio.IO: the process is gone, so the FIFOs go too.
func (s *Pipes) Close() error {
	s.Release()
	if err := os.RemoveAll(s.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
