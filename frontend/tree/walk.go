package tree

import (
	"path/filepath"
	"runtime"
	"sync"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"
)

// walk visits a tree with a few workers: on a warm cache the system calls are the cost.
type walk struct {
	root     string
	excluded []string // patterns

	mu    sync.Mutex
	cond  *sync.Cond
	queue []folder
	busy  int
	sum   Signature
	err   error
}

// folder is a directory to be read, "" is the root.
type folder struct {
	path  string
	match patternmatcher.MatchInfo
}

func newWalk(root string, excluded []string) *walk {
	w := &walk{root: root, excluded: excluded}
	w.cond = sync.NewCond(&w.mu)
	return w
}

// enter adds a directory before run. One that is ignored itself, or below one that is, is left out.
func (w *walk) enter(dir string) {
	f, ignored := folder{path: dir}, newIgnore(w.excluded)
	for i := 1; ignored != nil && i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		var skip bool
		if skip, f.match = ignored.skips(dir[:i], true, f.match); skip {
			return
		}
	}
	w.queue = append(w.queue, f)
}

func (w *walk) run() (Signature, error) {
	var wg sync.WaitGroup
	for range min(4, runtime.GOMAXPROCS(0)) {
		wg.Go(w.work)
	}
	wg.Wait()
	return w.sum, w.err
}

func (w *walk) work() {
	var sum Signature
	ignored := newIgnore(w.excluded) // its own, as a matcher compiles its patterns when it first needs them
	buf := make([]byte, 64<<10)
	for {
		f, ok := w.next()
		if !ok {
			break
		}
		below, err := w.read(f, ignored, buf, &sum)
		w.done(below, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sum.merge(sum)
}

// next waits for a directory to read; false when there are none left.
func (w *walk) next() (folder, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && w.busy > 0 && w.err == nil {
		w.cond.Wait()
	}
	if len(w.queue) == 0 || w.err != nil {
		return folder{}, false
	}
	f := w.queue[len(w.queue)-1]
	w.queue = w.queue[:len(w.queue)-1]
	w.busy++
	return f, true
}

func (w *walk) done(below []folder, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, below...)
	w.busy--
	if w.err == nil {
		w.err = err
	}
	w.cond.Broadcast()
}

// read adds a directory's entries to sum and returns its subdirectories.
func (w *walk) read(f folder, ignored *ignore, buf []byte, sum *Signature) (below []folder, err error) {
	fd, err := unix.Open(filepath.Join(w.root, f.path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
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
		path, isDir := f.path+"/"+name, st.Mode&unix.S_IFMT == unix.S_IFDIR
		skip, match := ignored.skips(path, isDir, f.match)
		if skip {
			continue
		}
		sum.add(path, &st)
		if isDir {
			below = append(below, folder{path, match})
		}
	}
	return below, nil
}
