package sbom

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

const (
	maxEntries = 5_000_000
	maxDepth   = 200 // each level holds a file descriptor
)

// walk visits the directory d, called rel below the root. Links are not followed: what they point
// at is met under its own name.
func (s *scan) walk(d *os.Root, rel string, depth int) error {
	entries, err := s.list(d)
	if err != nil {
		return fmt.Errorf("/%s: %w", rel, err)
	}
	for _, e := range entries {
		if err := context.Cause(s.ctx); err != nil {
			return err
		}
		if err := s.visit(d, e, join(rel, e.Name()), depth); err != nil {
			return err
		}
	}
	return nil
}

// list returns the sorted entries of d.
func (s *scan) list(d *os.Root) ([]fs.DirEntry, error) {
	f, err := d.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []fs.DirEntry
	for {
		part, err := f.ReadDir(4096)
		all = append(all, part...)
		if s.entries += len(part); s.entries > maxEntries {
			return nil, fmt.Errorf("the root has more than %d files", maxEntries)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := context.Cause(s.ctx); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return all, nil
}

func (s *scan) visit(d *os.Root, e fs.DirEntry, path string, depth int) error {
	switch {
	case e.IsDir():
		return s.enter(d, e.Name(), path, depth)
	case e.Type().IsRegular():
		return s.offer(d, e, path)
	}
	return nil
}

func (s *scan) enter(d *os.Root, name, path string, depth int) error {
	if depth == 0 && (name == "proc" || name == "sys" || name == "dev") {
		return nil // mount points: in an image they are empty
	}
	if depth == maxDepth {
		s.note(path, fmt.Errorf("not entered: more than %d levels deep", maxDepth))
		return nil
	}
	sub, err := d.OpenRoot(name)
	if err != nil {
		s.note(path, fmt.Errorf("not entered: %w", err))
		return nil
	}
	defer sub.Close()
	return s.walk(sub, path, depth+1)
}

// offer opens a regular file if a reader wants it.
func (s *scan) offer(d *os.Root, e fs.DirEntry, path string) error {
	info, err := e.Info()
	if err != nil {
		s.note(path, fmt.Errorf("not read: %w", err))
		return nil
	}
	for _, r := range readers {
		if !r.wants(path, info) {
			continue
		}
		f, err := openRegular(d, e.Name())
		if err != nil {
			s.note(path, fmt.Errorf("not read: %w", err))
			return nil
		}
		defer f.Close()
		return s.read(r, f, info, path)
	}
	return nil
}

// openRegular opens a file without ever waiting: a pipe that took the file's place would block.
func openRegular(d *os.Root, name string) (*os.File, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
