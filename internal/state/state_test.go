package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestWriteReplacesWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"a long first content", "short"} {
		if err := Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Fatalf("read %q, %v; want %q", got, err, text)
		}
	}
	// A directory in the way makes the rename fail after the temporary file
	// is complete.
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(taken, []byte("text"), 0o600); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var wg sync.WaitGroup
	// Atomic, because the race detector does not know of flock.
	var inside, total atomic.Int32
	for range 8 {
		wg.Go(func() {
			unlock, err := Lock(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d hold the lock", n)
			}
			total.Add(1)
			inside.Add(-1)
		})
	}
	wg.Wait()
	if n := total.Load(); n != 8 {
		t.Errorf("%d of 8 got it", n)
	}
}

// A lock whose file goes with its holder is taken anew by whoever waited, and a wait ends with its context.
func TestLockOfARemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := LockContext(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a held lock: %v", err)
	}
	short, cancel := context.WithTimeoutCause(t.Context(), 30*time.Millisecond, errors.New("too long"))
	defer cancel()
	if _, err := LockContext(short, path); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("waited in vain: %v", err)
	}
	if err := Unlocked(short, path); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("waited in vain: %v", err)
	}
	got := make(chan func())
	go func() {
		again, err := LockContext(t.Context(), path)
		if err != nil {
			t.Error(err)
		}
		got <- again
	}()
	time.Sleep(20 * time.Millisecond)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	unlock()
	again := <-got
	if _, err := TryLock(path); !errors.Is(err, ErrInUse) {
		t.Errorf("the file that is there now is not the locked one: %v", err)
	}
	again()
	if err := Unlocked(t.Context(), path); err != nil {
		t.Error(err)
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"long content", "short"} {
		if err := Replace(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}
