// Package tarball looks at archives that come from anywhere before they are unpacked.
package tarball

import (
	"archive/tar"
	"errors"
	"io"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/internal/space"
)

// Fits returns what r has, byte by byte, for as long as the files in it have room below dir: a few bytes of a tar can stand
// for a sparse file of any size. Reading fails with errdefs.ErrInvalidArgument at the first that has none. Close ends it;
// what is no tar is passed on as it is.
func Fits(r io.Reader, dir string) io.ReadCloser {
	out, in := io.Pipe()
	left, err := space.Free(dir)
	if err != nil {
		left = 1 << 62 // it can't be told
	}
	go func() { in.CloseWithError(pass(io.TeeReader(r, in), left)) }()
	return out
}

// pass reads a tar to its end.
func pass(r io.Reader, left int64) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrClosedPipe) {
			return err
		}
		if err != nil { // whoever unpacks it says what is wrong
			break
		}
		if left -= h.Size; left < 0 || h.Size < 0 {
			return fault.Invalid("the archive's file %q has %d bytes, for which there is no room", h.Name, h.Size)
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}
