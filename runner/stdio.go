package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/fifo"
)

// stdio copies between a process's FIFOs and its streams. It is a cio.IO of our own for two reasons:
// the FIFOs must stay when this process lets go of a live container, and the end of input has to be
// told to the shim, which keeps a writer open so that a dead daemon is not an end of input.
type stdio struct {
	cfg    cio.Config
	dir    string
	cancel context.CancelFunc // of FIFOs that the other side has not opened
	pipes  []io.Closer
	out    sync.WaitGroup // output copiers
	in     sync.WaitGroup
	closer chan client.Process // told once, when the process has started
	to     *streams
	once   sync.Once
}

// stdioPaths names the FIFOs of process id in a directory of its own.
func stdioPaths(dir string, tty, stdin bool) cio.Config {
	cfg := cio.Config{Terminal: tty, Stdout: filepath.Join(dir, "out")}
	if !tty {
		cfg.Stderr = filepath.Join(dir, "err")
	}
	if stdin {
		cfg.Stdin = filepath.Join(dir, "in")
	}
	return cfg
}

// openStdio makes or re-opens the FIFOs of cfg and starts copying. It does not wait for the shim to
// open its ends.
func openStdio(dir string, cfg cio.Config, s *streams) (_ *stdio, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with release or Close, not with a request
	io := &stdio{cfg: cfg, dir: dir, cancel: cancel, closer: make(chan client.Process, 1), to: s}
	defer func() {
		if err != nil {
			io.release()
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
		io.out.Go(func() { copyOut(f, stream, s) })
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

func copyOut(r io.Reader, stream byte, s *streams) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			s.emit(stream, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// copyIn feeds the process, and passes the end of input on when a client asked for it.
func (s *stdio) copyIn(w io.WriteCloser, r io.Reader) {
	_, err := io.Copy(w, r)
	w.Close()
	p := <-s.closer // nil when the process is gone
	if err != nil || p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(scoped(context.Background()), 10*time.Second)
	defer cancel()
	_ = p.CloseIO(ctx, client.WithStdinCloser)
}

// started tells whose input to end. Before that an end of input waits: the shim has no pipe yet.
func (s *stdio) started(p client.Process) { s.once.Do(func() { s.closer <- p }) }

// drain waits until all output is copied; no longer than d for clients that read slowly, and a
// second more for a process that left the container's namespaces and holds the pipes.
func (s *stdio) drain(d time.Duration) {
	done := make(chan struct{})
	go func() { s.out.Wait(); close(done) }() // ends with release at the latest
	for _, limit := range []time.Duration{d, time.Second} {
		select {
		case <-done:
			return
		case <-time.After(limit):
			s.to.hurry()
		}
	}
}

// Config implements cio.IO.
func (s *stdio) Config() cio.Config { return s.cfg }

// Cancel implements cio.IO: it gives up FIFOs that the shim never opened.
func (s *stdio) Cancel() { s.cancel() }

// Wait implements cio.IO.
func (s *stdio) Wait() { s.drain(3 * time.Second) }

// release closes this process's ends. The shim's are not touched.
func (s *stdio) release() {
	s.cancel()
	s.once.Do(func() { close(s.closer) })
	for _, p := range s.pipes {
		_ = p.Close()
	}
	s.to.hurry() // a copier may wait for a client
	s.out.Wait()
}

// Close implements cio.IO: the process is gone, so the FIFOs go too.
func (s *stdio) Close() error {
	s.release()
	if err := os.RemoveAll(s.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
