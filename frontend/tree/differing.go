package tree

import (
	"bytes"
	"context"
	"fmt"
	"io"
	gofs "io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// Differing lists the files of fresh that are not, or not the same, below old, and those that are only
// there, as "path", "path (new)" and "path (gone)", sorted. Directories and time stamps don't count: files of one
// size are read.
func Differing(ctx context.Context, fresh fsutil.FS, old string) (files []string, err error) {
	seen := map[string]bool{}
	err = fresh.Walk(ctx, "", func(path string, e gofs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		seen[path] = true
		fi, err := e.Info()
		if err != nil {
			return err
		}
		was, err := os.Lstat(filepath.Join(old, path))
		if os.IsNotExist(err) {
			files = append(files, path+" (new)")
			return nil
		}
		if err != nil {
			return err
		}
		same, err := sameFile(fresh, path, fi, filepath.Join(old, path), was)
		if err == nil && !same {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(old, func(path string, e gofs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(old, path)
		if err == nil && !seen[rel] {
			files = append(files, rel+" (gone)")
		}
		return err
	})
	slices.Sort(files)
	return files, err
}

func sameFile(fresh fsutil.FS, path string, is gofs.FileInfo, oldPath string, was gofs.FileInfo) (bool, error) {
	if is.Mode() != was.Mode() {
		return false, nil
	}
	if !is.Mode().IsRegular() {
		if is.Mode()&gofs.ModeSymlink == 0 {
			return true, nil
		}
		to, err := os.Readlink(oldPath)
		if err != nil {
			return false, err
		}
		st, ok := is.Sys().(*types.Stat)
		return ok && st.Linkname == to, nil
	}
	if is.Size() != was.Size() {
		return false, nil
	}
	a, err := fresh.Open(path)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(oldPath)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameBytes(a, b)
}

// SameContent compares two files byte by byte.
func SameContent(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	return sameBytes(x, y)
}

func sameBytes(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		end := err == io.EOF || err == io.ErrUnexpectedEOF
		switch {
		case end && (err2 == io.EOF || err2 == io.ErrUnexpectedEOF):
			return true, nil
		case err != nil && !end:
			return false, fmt.Errorf("comparing: %w", err)
		case err2 != nil:
			return false, fmt.Errorf("comparing: %w", err2)
		}
	}
}
