package backup

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// aboutFile is the first file of an archive.
const aboutFile = "gantry-cluster-backup.json"

// format is what this package writes and understands.
const format = 1

// About is what an archive says of itself.
type About struct {
	Format int
	Made   time.Time
	Host   string
	State  State
}

// Pack writes the copy in dir as a gzip-compressed tar archive. It has the keys of the cluster: whoever reads it can become a
// manager, unless the cluster is locked.
func Pack(w io.Writer, dir string, about About) error {
	about.Format = format
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	data, err := json.MarshalIndent(about, "", "\t")
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: aboutFile, Mode: 0o600, Size: int64(len(data)), ModTime: about.Made}); err != nil {
		return err
	}
	if _, err := t.Write(data); err != nil {
		return err
	}
	return errors.Join(t.AddFS(os.DirFS(dir)), t.Close(), z.Close())
}

// Unpack makes the new directory dir out of an archive. What is no such archive, or not the whole of one, is an error, and
// leaves no directory.
func Unpack(r io.Reader, dir string) (about About, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return about, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("no backup of a cluster, or not the whole of one: %w", err), os.RemoveAll(dir))
		}
	}()
	z, err := gzip.NewReader(r)
	if err != nil {
		return about, err
	}
	t := tar.NewReader(z)
	head, err := t.Next()
	if err != nil {
		return about, err
	}
	if head.Name != aboutFile {
		return about, fmt.Errorf("its first file is %s", head.Name)
	}
	if err := json.NewDecoder(t).Decode(&about); err != nil {
		return about, fmt.Errorf("%s: %w", aboutFile, err)
	}
	if about.Format != format {
		return about, fmt.Errorf("its format is %d, and this gantry knows %d", about.Format, format)
	}
	for {
		head, err := t.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = unpackOne(t, head, dir)
		}
		if err != nil {
			return about, err
		}
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // its checksum
		return about, err
	}
	return about, nil
}

func unpackOne(t *tar.Reader, head *tar.Header, dir string) error {
	name := strings.TrimSuffix(head.Name, "/")
	if !fs.ValidPath(name) {
		return fmt.Errorf("%q is no path", head.Name)
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	switch head.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o700)
	case tar.TypeReg:
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t)
		return errors.Join(err, f.Sync(), f.Close())
	}
	return fmt.Errorf("%s is no file or directory", head.Name)
}
