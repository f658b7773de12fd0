package logs

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// packedExt ends the name of a file that is compressed.
const packedExt = ".gz"

// pack compresses a file in place. It stays as it is after an error.
func pack(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := name + ".tmp"
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z, _ := gzip.NewWriterLevel(out, gzip.BestSpeed)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err == nil {
		err = os.Rename(temp, name+packedExt)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return os.Remove(name)
}

// openPacked opens a file of a log, or what it holds when it is compressed: as a file without a name.
func openPacked(name string) (*os.File, error) {
	f, err := os.Open(name)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	in, e := os.Open(name + packedExt)
	if e != nil {
		return nil, err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, err
	}
	out, err := os.CreateTemp(filepath.Dir(name), ".log-")
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(out, z); err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err = errors.Join(err, os.Remove(out.Name())); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}
