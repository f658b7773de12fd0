package sbom

import (
	"context"
	"crypto/sha1" //nolint:gosec // SPDX 2.3, 8.4: a file's SHA1 is mandatory
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
)

const (
	maxComponents = 200_000
	maxNotes      = 100
)

// scan is one run over one root.
type scan struct {
	ctx     context.Context
	root    *os.Root
	distro  distro
	found   map[string]*component // by package URL
	files   map[string]evidence   // by path
	notes   []string
	unnoted int
	entries int
}

// evidence is a file that named at least one component.
type evidence struct{ sha1, sha256 string }

func newScan(ctx context.Context, root *os.Root) *scan {
	s := &scan{ctx: ctx, root: root, found: map[string]*component{}, files: map[string]evidence{}}
	s.distro = s.readDistro()
	return s
}

// note keeps why something is missing from the document.
func (s *scan) note(path string, err error) {
	if len(s.notes) == maxNotes {
		s.unnoted++
		return
	}
	s.notes = append(s.notes, clean("/"+path)+": "+clean(err.Error()))
}

// read hands one opened file to its reader and keeps what it names.
func (s *scan) read(r reader, f *os.File, info os.FileInfo, path string) error {
	if info.Size() > r.limit {
		s.note(path, fmt.Errorf("not read: %d bytes are more than the %d that a %s may have", info.Size(), r.limit, r.what))
		return nil
	}
	in := &file{ctx: s.ctx, scan: s, path: path, size: info.Size(), at: &budget{ctx: s.ctx, r: f, left: r.budget()}}
	got, err := safely(r, in)
	if ctxErr := context.Cause(s.ctx); ctxErr != nil {
		return ctxErr
	}
	if err != nil {
		s.note(path, fmt.Errorf("reading it as %s: %w", r.what, err))
	}
	added := 0
	for _, c := range got {
		if s.add(c, path) {
			added++
		}
	}
	if added == 0 {
		return nil
	}
	return s.addEvidence(f, path)
}

// safely turns a parser's panic into an error: the daemon that scans also runs other builds.
func safely(r reader, in *file) (got []component, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("parser failed: %v", p)
		}
	}()
	return r.read(in)
}

func (s *scan) add(c component, path string) bool {
	c.tidy()
	if c.name == "" {
		s.note(path, errors.New("an entry without a name is left out"))
		return false
	}
	purl := c.purl()
	old, ok := s.found[purl]
	if !ok {
		if len(s.found) == maxComponents {
			s.note(path, fmt.Errorf("left out, there are more than %d components", maxComponents))
			return false
		}
		old = &c
		old.evidence = map[string]bool{}
		s.found[purl] = old
	}
	old.fill(c)
	old.evidence[path] = true
	return true
}

// addEvidence takes the digests of an evidence.
func (s *scan) addEvidence(f *os.File, path string) error {
	h1, h2 := sha1.New(), sha256.New() //nolint:gosec // see the import
	src := ctxReader{s.ctx, f}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if _, err := io.Copy(io.MultiWriter(h1, h2), src); err != nil {
		return fmt.Errorf("hashing /%s: %w", path, err)
	}
	s.files[path] = evidence{hex.EncodeToString(h1.Sum(nil)), hex.EncodeToString(h2.Sum(nil))}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
