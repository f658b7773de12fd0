package tree

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"
)

// walkLimit is far above what a tree of a fuzzer's size takes.
const walkLimit = 20 * time.Second

// recipe makes and changes a tree as its bytes say.
type recipe struct {
	rest []byte
	root string
	made []string // paths below root, "" is root itself
}

func (r *recipe) byte() byte {
	if len(r.rest) == 0 {
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// text takes up to 15 bytes, without what no name can have.
func (r *recipe) text() string {
	n := min(int(r.byte()%16), len(r.rest))
	s := string(bytes.ReplaceAll(r.rest[:n], []byte{0}, []byte{1}))
	r.rest = r.rest[n:]
	return s
}

func (r *recipe) old() string { return r.made[int(r.byte())%len(r.made)] }

func (r *recipe) path(rel string) string { return filepath.Join(r.root, rel) }

func (r *recipe) fresh() string {
	name := strings.ReplaceAll(r.text(), "/", "\n")
	if name == "" || name == "." || name == ".." {
		name = fmt.Sprintf("n%d", len(r.made))
	}
	return r.old() + "/" + name
}

// step does one thing. What the file system refuses is left undone.
func (r *recipe) step() {
	var err error
	rel := ""
	switch op := r.byte() % 12; op {
	case 0, 1:
		rel = r.fresh()
		err = os.Mkdir(r.path(rel), 0o755)
	case 2, 3:
		rel = r.fresh()
		err = os.WriteFile(r.path(rel), []byte(r.text()), 0o644)
	case 4, 5:
		rel = r.fresh()
		err = os.Symlink(strings.TrimLeft(r.text(), "/")+".", r.path(rel)) // never out of the tree by an absolute path
	case 6:
		rel = r.fresh()
		err = unix.Mknod(r.path(rel), []uint32{unix.S_IFIFO, unix.S_IFSOCK}[r.byte()%2]|0o600, 0)
	case 7:
		rel = r.fresh()
		err = os.Link(r.path(r.old()), r.path(rel))
	case 8:
		rel = r.fresh() + strings.Repeat("/d", 1+int(r.byte())) // a path longer than the kernel takes at once is refused
		err = os.MkdirAll(r.path(rel), 0o755)
	case 9:
		err = os.Rename(r.path(r.old()), r.path(r.fresh()))
	case 10:
		if victim := r.old(); victim != "" {
			err = os.RemoveAll(r.path(victim))
		}
	case 11:
		err = os.Truncate(r.path(r.old()), int64(r.byte())<<8)
	}
	if rel != "" && err == nil {
		r.made = append(r.made, rel)
	}
}

func (r *recipe) run() {
	for len(r.rest) > 0 {
		r.step()
	}
}

func grow(t *testing.T, data []byte) *recipe {
	r := &recipe{data, t.TempDir(), []string{""}}
	r.run()
	return r
}

// within fails the test, with all goroutines shown, when f does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(walkLimit):
		panic(what + " does not end")
	}
}

// FuzzWalk lets the walk over a context meet any tree: it must end and agree with itself, see every
// change, and survive changes under its feet.
func FuzzWalk(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s.tree), []byte(s.later), s.names)
	}
	f.Fuzz(func(t *testing.T, tree, later []byte, names string) {
		r := grow(t, tree)
		within(t, "the walk of named files", func() { _, _ = Sign(r.root, Selection{Follow: strings.Split(names, "\x00")}) })
		checkStable(t, r.root)
		checkDiffering(t, r.root, later)
		checkChanging(t, r, later)
	})
}

var seeds = []struct{ tree, later, names string }{
	{"", "", ""},
	{"\x00\x01a\x00\x02\x01b\x05hello\x00", "\x02\x01c\x01x\x00", "a\x00b"},
	{"\x04\x04loop\x00\x03.//\x00", "\x0a\x01", "loop/loop/loop"},        // a link to its own directory
	{"\x04\x01x\x00\x01x\x04\x01y\x00\x01x", "\x09\x01\x01z", "x/y"},     // links to each other
	{"\x06\x04fifo\x00\x00\x06\x04sock\x00\x01", "\x0a\x01", "fifo"},     // what must not be opened
	{"\x02\x04a\nb\xff\x00\x03abc", "\x0b\x01\x10", "a\nb\xff"},          // names that are not text
	{"\x08\x04deep\x00\xff\x08\x04deep\x00\xff", "\x0a\x01", "deep/d/d"}, // deep
	{"\x02\x02*?\x00\x01x\x02\x02[]\x00\x01x", "", "*?\x00[]\x00!x\x00\\"},
	{"\x02\x01f\x00\x01x\x07\x01g\x00\x01", "\x0b\x01\x01", "f\x00g\x00../../etc\x00/\x00."},
}

func checkStable(t *testing.T, root string) {
	t.Helper()
	var one, two, three Signature
	var err error
	within(t, "the walk", func() {
		if one, err = Sign(root, Selection{}); err == nil {
			two, err = Sign(root, Selection{})
		}
	})
	if err != nil {
		t.Fatalf("a tree at rest can't be read: %v", err)
	}
	if one != two {
		t.Fatalf("two walks differ: %+v %+v", one, two)
	}
	if err := os.WriteFile(filepath.Join(root, "added by the test"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if three, err = Sign(root, Selection{}); err != nil || three.Hash == one.Hash {
		t.Fatalf("a new file is not seen: %v", err)
	}
}

// checkDiffering compares the tree with another as --explain-cache does.
func checkDiffering(t *testing.T, root string, later []byte) {
	t.Helper()
	fresh, err := fsutil.NewFS(root)
	if err != nil {
		t.Fatal(err)
	}
	old := grow(t, later)
	within(t, "the comparison", func() {
		_, err = Differing(context.Background(), fresh, old.root)
		same, serr := Differing(context.Background(), fresh, root)
		for _, name := range same {
			// A copy never has a socket: fsutil sends an empty file instead.
			if st, err := os.Lstat(filepath.Join(root, name)); serr == nil && (err != nil || st.Mode()&os.ModeSocket == 0) {
				t.Errorf("a tree differs from itself: %q", name)
			}
		}
	})
	if err != nil {
		t.Fatalf("trees at rest can't be compared: %v", err)
	}
}

// checkChanging walks while the tree changes: an error is an answer, as the build then reads the
// directory in full.
func checkChanging(t *testing.T, r *recipe, later []byte) {
	t.Helper()
	stop := make(chan struct{})
	var changer sync.WaitGroup
	changer.Go(func() {
		for range 20 {
			r.rest = later
			r.run()
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	within(t, "the walk of a changing tree", func() {
		for range 3 {
			_, _ = Sign(r.root, Selection{})
		}
	})
	close(stop)
	changer.Wait()
}

// FuzzSharedKey reads what any client can say about its directories.
func FuzzSharedKey(f *testing.F) {
	f.Add(SharedKey(map[string]Directory{"context": {Path: "/a\n\xff", Dev: 1, Inode: 2}}))
	f.Add(sharedKeyPrefix)
	f.Add(sharedKeyPrefix + `{"context":{"path":"","dev":-1}}`)
	f.Add("\x00")
	f.Fuzz(func(t *testing.T, key string) {
		for name, d := range ParseSharedKey(key) {
			if d.Here() && d.Path == "" {
				t.Errorf("%q: no path is the same as one", name)
			}
		}
	})
}
