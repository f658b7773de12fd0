package tree

import (
	"encoding/binary"
	"hash/maphash"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Signature stands for the state of a tree: path, inode, size, mtime, ctime, mode and owner of every file in
// it. Two of one process that are equal are of the same tree in the same state, unless a file was changed
// again in the clock tick in which it was looked at; see [Signature.Settled].
type Signature struct {
	Hash   uint64
	Newest time.Time // the latest ctime
}

var seed = maphash.MakeSeed()

func (s *Signature) add(path string, st *unix.Stat_t) {
	var b [80]byte
	le := binary.LittleEndian
	for i, v := range [...]uint64{
		uint64(st.Mode), st.Ino, uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()),
		uint64(st.Uid), uint64(st.Gid), uint64(st.Nlink), uint64(st.Dev), uint64(st.Rdev),
	} {
		le.PutUint64(b[i*8:], v)
	}
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.Write(b[:])
	_, _ = h.WriteString(path)
	s.Hash += h.Sum64() // a sum: workers meet the files in any order
	if c := time.Unix(st.Ctim.Unix()); c.After(s.Newest) {
		s.Newest = c
	}
}

func (s *Signature) merge(o Signature) {
	s.Hash += o.Hash
	if o.Newest.After(s.Newest) {
		s.Newest = o.Newest
	}
}

// Settled tells that a change after the given moment would give another signature: the newest time stamp is
// older by more than a clock tick of the file system that it comes from.
func (s Signature) Settled(at time.Time) bool {
	tick := 20 * time.Millisecond
	if s.Newest.Nanosecond() == 0 {
		tick = 2 * time.Second // there are no fractions: FAT, some network file systems
	}
	return at.Sub(s.Newest) > tick
}

// Sign sums the tree below root, or what a selection needs of it: the included and followed files and
// directories with all that is above them, without what is ignored. Names with wildcards, and names that
// lead through a symbolic link, mean the whole tree, and nothing of it is ignored then: the way of a link
// may lead through anything.
func Sign(root string, of Selection) (Signature, error) {
	var sum Signature
	var top unix.Stat_t
	if err := unix.Stat(root, &top); err != nil {
		return sum, err
	}
	sum.add("/", &top)
	w := newWalk(root, of.Exclude)
	whole := true
	for _, n := range slices.Concat(of.Include, of.Follow) {
		dir, plain, err := sum.literal(root, n)
		if err != nil {
			return sum, err
		}
		if !plain {
			w = newWalk(root, nil)
			whole = true
			break
		}
		whole = false
		if dir != "" {
			w.enter(dir)
		}
	}
	if whole {
		w.enter("")
	}
	below, err := w.run()
	sum.merge(below)
	return sum, err
}

// literal adds the components of one name. It returns the name when it is a directory, whose tree counts
// too; plain is false when only the whole tree will do.
func (s *Signature) literal(root, name string) (dir string, plain bool, err error) {
	if strings.ContainsAny(name, `*?[]!\`) {
		return "", false, nil
	}
	at := ""
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean("/"+name), "/"), "/") {
		if part == "" {
			return "", false, nil // the context itself
		}
		at += "/" + part
		var st unix.Stat_t
		switch err := unix.Lstat(root+at, &st); {
		case err == unix.ENOENT || err == unix.ENOTDIR:
			return "", true, nil
		case err != nil:
			return "", true, err
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			return "", false, nil
		}
		s.add(at, &st)
		dir = ""
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			dir = at
		}
	}
	return dir, true, nil
}
