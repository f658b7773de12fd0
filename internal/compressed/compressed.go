// Package compressed reads what is compressed with gzip, bzip2, xz or zstd, in this process and within limits:
// what it reads may come from anyone.
package compressed

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow is the memory that a decoder may take for what it looks back at, in bytes: twice what xz -9 and
// zstd --ultra -22 take.
const maxWindow = 256 << 20

// From usual.size bytes on, output may be usual.ratio times its input. A file system's tar is ten times.
var usual = limits{size: 4 << 30, ratio: 1000}

type limits struct{ size, ratio int64 }

// ErrBomb says that a small input unpacks to no end.
var ErrBomb = errors.New("it unpacks to more than a thousand times its size")

// formats by their first bytes.
var formats = []struct {
	magic string
	open  func(*bufio.Reader) (io.Reader, error)
}{
	{"\x1f\x8b", func(r *bufio.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"BZh", func(r *bufio.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{"\xfd7zXZ\x00", openXZ},
	{"\x28\xb5\x2f\xfd", openZstd},
}

// Open returns what is in r; when that is not compressed, r's bytes as they are. Close it. It does not close r.
func Open(r io.Reader) (io.ReadCloser, error) { return open(r, usual) }

func open(r io.Reader, most limits) (io.ReadCloser, error) {
	counted := &counter{r: r}
	in := bufio.NewReaderSize(counted, 64<<10)
	for _, f := range formats {
		if head, _ := in.Peek(len(f.magic)); string(head) != f.magic {
			continue
		}
		out, err := f.open(in)
		if err != nil {
			return nil, err
		}
		return &limited{out: out, in: counted, most: most}, nil
	}
	return io.NopCloser(in), nil
}

// openXZ reads the size of the dictionary ahead, as the decoder would take whatever it says. Block header and
// filter flags: https://tukaani.org/xz/xz-file-format.txt, 3.1 and 5.3.1.
func openXZ(r *bufio.Reader) (io.Reader, error) {
	const streamHeader = 12
	head, _ := r.Peek(streamHeader + 1024)
	if len(head) > streamHeader {
		block := head[streamHeader:min(len(head), streamHeader+4*(int(head[streamHeader])+1))]
		if i := bytes.Index(block, []byte{0x21, 1}); i > 1 && i+2 < len(block) {
			if bits := block[i+2] & 0x3f; bits > 40 || (2|uint64(bits&1))<<(bits/2+11) > maxWindow {
				return nil, fmt.Errorf("xz: its dictionary is larger than %d MiB", maxWindow>>20)
			}
		}
	}
	return xz.NewReader(r)
}

func openZstd(r *bufio.Reader) (io.Reader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// limited ends a bomb.
type limited struct {
	out  io.Reader
	in   *counter
	n    int64
	most limits
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.out.Read(p)
	l.n += int64(n)
	if l.n > l.most.size && l.n/l.most.ratio > l.in.n {
		return 0, ErrBomb
	}
	return n, err
}

func (l *limited) Close() error {
	if c, ok := l.out.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
