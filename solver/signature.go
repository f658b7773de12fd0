package solver

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stat returns the identity of the directory at path.
func Stat(path string) (Directory, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Directory{}, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return Directory{}, err
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return Directory{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.IsDir() {
		return Directory{}, fmt.Errorf("%s is not a directory", path)
	}
	var ns syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/mnt", &ns); err != nil {
		return Directory{}, fmt.Errorf("own mount namespace: %w", err)
	}
	return Directory{Path: abs, Dev: uint64(st.Dev), Inode: st.Ino, Mounts: ns.Ino}, nil
}

func (d Directory) same() bool {
	here, err := Stat(d.Path)
	return err == nil && here == d
}

// treeSum stands for the state of a tree: path, inode, size, mtime, ctime, mode and owner of every
// file in it. ctime can't be set by a program, so a change is never missed.
type treeSum struct {
	hash   uint64
	newest time.Time // the latest ctime
}

var sumSeed = maphash.MakeSeed()

func (t *treeSum) add(path string, st *unix.Stat_t) {
	var b [80]byte
	le := binary.LittleEndian
	for i, v := range [...]uint64{
		uint64(st.Mode), st.Ino, uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()),
		uint64(st.Uid), uint64(st.Gid), uint64(st.Nlink), uint64(st.Dev), uint64(st.Rdev),
	} {
		le.PutUint64(b[i*8:], v)
	}
	var h maphash.Hash
	h.SetSeed(sumSeed)
	_, _ = h.Write(b[:])
	_, _ = h.WriteString(path)
	t.hash += h.Sum64() // a sum: workers meet the files in any order
	if c := time.Unix(st.Ctim.Unix()); c.After(t.newest) {
		t.newest = c
	}
}

func (t *treeSum) merge(o treeSum) {
	t.hash += o.hash
	if o.newest.After(t.newest) {
		t.newest = o.newest
	}
}

// signature sums the tree below root, or only the named files and directories of it with all that is
// above them. Names with wildcards, and names that lead through a symbolic link, mean the whole tree.
func signature(root string, names []string) (treeSum, error) {
	var sum treeSum
	if root == "" {
		return sum, nil
	}
	var top unix.Stat_t
	if err := unix.Stat(root, &top); err != nil {
		return sum, err
	}
	sum.add("/", &top)
	start := []string{}
	for _, n := range names {
		dir, whole, err := sum.literal(root, n)
		if err != nil {
			return sum, err
		}
		if whole {
			names = nil
			break
		}
		if dir != "" {
			start = append(start, dir)
		}
	}
	if len(names) == 0 {
		start = []string{""}
	}
	below, err := newWalk(root, start...).run()
	sum.merge(below)
	return sum, err
}

// literal adds the components of one name. It returns the name when it is a directory, whose tree
// counts too, or whole when only the whole tree will do.
func (t *treeSum) literal(root, name string) (dir string, whole bool, err error) {
	if strings.ContainsAny(name, `*?[]!\`) {
		return "", true, nil
	}
	at := ""
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean("/"+name), "/"), "/") {
		if part == "" {
			return "", true, nil // the context itself
		}
		at += "/" + part
		var st unix.Stat_t
		switch err := unix.Lstat(root+at, &st); {
		case err == unix.ENOENT || err == unix.ENOTDIR:
			return "", false, nil
		case err != nil:
			return "", false, err
		case st.Mode&unix.S_IFMT == unix.S_IFLNK:
			return "", true, nil
		}
		t.add(at, &st)
		dir = ""
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			dir = at
		}
	}
	return dir, false, nil
}

// walk visits a tree with a few workers: on a warm cache the system calls are the cost.
type walk struct {
	root string

	mu    sync.Mutex
	cond  *sync.Cond
	queue []string
	busy  int
	sum   treeSum
	err   error
}

func newWalk(root string, dirs ...string) *walk {
	w := &walk{root: root, queue: dirs}
	w.cond = sync.NewCond(&w.mu)
	return w
}

func (w *walk) run() (treeSum, error) {
	var wg sync.WaitGroup
	for range min(4, runtime.GOMAXPROCS(0)) {
		wg.Go(w.work)
	}
	wg.Wait()
	return w.sum, w.err
}

func (w *walk) work() {
	var sum treeSum
	buf := make([]byte, 64<<10)
	for {
		dir, ok := w.next()
		if !ok {
			break
		}
		sub, err := readDir(w.root, dir, buf, &sum)
		w.done(sub, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum.merge(sum)
}

// next waits for a directory to read; false when there are none left.
func (w *walk) next() (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && w.busy > 0 && w.err == nil {
		w.cond.Wait()
	}
	if len(w.queue) == 0 || w.err != nil {
		return "", false
	}
	dir := w.queue[len(w.queue)-1]
	w.queue = w.queue[:len(w.queue)-1]
	w.busy++
	return dir, true
}

func (w *walk) done(sub []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, sub...)
	w.busy--
	if w.err == nil {
		w.err = err
	}
	w.cond.Broadcast()
}

// readDir adds a directory's entries to sum and returns its subdirectories.
func readDir(root, dir string, buf []byte, sum *treeSum) (sub []string, err error) {
	fd, err := unix.Open(filepath.Join(root, dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, err
		}
		path := dir + "/" + name
		sum.add(path, &st)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub = append(sub, path)
		}
	}
	return sub, nil
}
