package sbom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

// errBudget ends the reading of a file that makes its parser read too much.
var errBudget = errors.New("it makes its reader read too much")

// file is what a reader gets to see of one file.
type file struct {
	ctx  context.Context
	scan *scan // nil where a parser is tried alone
	path string
	size int64
	at   io.ReaderAt
}

// stream reads the file from its beginning.
func (f *file) stream() io.Reader { return io.NewSectionReader(f.at, 0, f.size) }

// bytes returns the whole file.
func (f *file) bytes() ([]byte, error) { return io.ReadAll(f.stream()) }

// distro is the distribution that the root calls itself.
func (f *file) distro() distro {
	if f.scan == nil {
		return distro{}
	}
	return f.scan.distro
}

// small returns another regular file of the root, links followed as long as they stay inside; nil
// if there is none, or it is larger than limit.
func (f *file) small(name string, limit int64) []byte {
	if f.scan == nil {
		return nil
	}
	return f.scan.small(name, limit)
}

func (s *scan) small(name string, limit int64) []byte {
	// Stat first: opening a device can already do something.
	info, err := s.root.Stat(path.Clean(name))
	if err != nil || !info.Mode().IsRegular() || info.Size() > limit {
		return nil
	}
	f, err := openRegular(s.root, path.Clean(name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(ctxReader{s.ctx, f}, limit))
	if err != nil {
		return nil
	}
	return b
}

// budget reads until its bytes are spent or its context ends. Forged sizes and offsets in a file
// can't make a parser read, and so keep, more than that.
type budget struct {
	ctx  context.Context
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	if int64(len(p)) > b.left {
		return 0, errBudget
	}
	n, err := b.r.ReadAt(p, off)
	b.left -= int64(n)
	return n, err
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	f   *os.File
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}

// head returns at most limit bytes of r, and an error if there is more.
func head(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return b, err
}
