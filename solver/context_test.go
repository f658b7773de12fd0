package solver_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/sysx"
	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/cache"
)

// inImage calls f with the root file system of an image of this store.
func (b *bench) inImage(t testing.TB, ref string, f func(root string)) {
	t.Helper()
	ctx := cache.WithNamespace(t.Context())
	img := b.open(t, ref, "linux/amd64")
	sn := b.store.Client.SnapshotService(cache.Snapshotter)
	key := "look-" + ref + fmt.Sprint(time.Now().UnixNano())
	mounts, err := sn.View(ctx, key, img.Snapshot)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sn.Remove(ctx, key) }()
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		f(root)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// clients are a client whose directories the daemon sees, and one that sends its files.
var clients = map[string]bool{"here": false, "remote": true}

// stamp gives files one time stamp, as a tool that wants the same archive each time does.
func stamp(t testing.TB, files ...string) {
	t.Helper()
	for _, f := range files {
		then := time.Unix(1700000000, 0)
		if err := os.Chtimes(f, then, then); err != nil {
			t.Fatal(err)
		}
	}
}

func try(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A file that looks as before, by its size and time stamp, but is another, is another in the image.
func TestSameSizeAndTime(t *testing.T) {
	for client, remote := range clients {
		for name, change := range map[string]func(t *testing.T, f, g string){
			"written over": func(t *testing.T, f, g string) { try(t, os.WriteFile(f, []byte("BBB"), 0o644)) },
			"moved in":     func(t *testing.T, f, g string) { try(t, os.Rename(g, f)) },
			"swapped":      func(t *testing.T, f, g string) { try(t, unix.Renameat2(-100, f, -100, g, unix.RENAME_EXCHANGE)) },
			"linked to another": func(t *testing.T, f, g string) {
				try(t, os.Remove(f), os.Link(g, f))
			},
		} {
			t.Run(client+"/"+name, func(t *testing.T) {
				b, d := start(t), t.TempDir()
				f, g, h := filepath.Join(d, "f"), filepath.Join(d, "g"), filepath.Join(d, "h")
				write(t, d, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "f": "AAA", "g": "BBB"})
				try(t, os.Link(f, h))
				stamp(t, f, g)
				time.Sleep(50 * time.Millisecond)
				b.build(t, request{dir: d, tag: "one", remote: remote})
				change(t, f, g)
				for _, x := range []string{f, g} {
					if _, err := os.Lstat(x); err == nil {
						stamp(t, x)
					}
				}
				b.build(t, request{dir: d, tag: "two", remote: remote})
				b.inImage(t, "two", func(root string) {
					for _, x := range []string{"f", "g", "h"} {
						want, werr := os.ReadFile(filepath.Join(d, x))
						got, err := os.ReadFile(filepath.Join(root, x))
						if string(got) != string(want) || (err == nil) != (werr == nil) {
							t.Errorf("%s is %q in the image, %q in the context", x, got, want)
						}
					}
					if st, err := os.Stat(filepath.Join(root, "f")); err != nil || !st.ModTime().Equal(time.Unix(1700000000, 0)) {
						t.Errorf("its time is %v, %v", st.ModTime(), err)
					}
				})
			})
		}
	}
}

// A change of a directory's mode alone is one of the context; its time stamp is the context's.
func TestDirectoryMode(t *testing.T) {
	for client, remote := range clients {
		for _, line := range []string{"COPY . /", "COPY d /d", "COPY --parents d/f /"} {
			t.Run(client+"/"+line, func(t *testing.T) {
				b, d := start(t), t.TempDir()
				write(t, d, map[string]string{"Dockerfile": "# syntax=docker/dockerfile:1\nFROM scratch\n" + line + "\n",
					"d/f": "x", "d/sub/g": "y"})
				try(t, os.Chmod(filepath.Join(d, "d"), 0o755))
				time.Sleep(50 * time.Millisecond)
				b.build(t, request{dir: d, tag: "one", remote: remote})
				try(t, os.Chmod(filepath.Join(d, "d"), 0o700))
				b.build(t, request{dir: d, tag: "two", remote: remote})
				mode := func(b *bench) (mode os.FileMode) {
					b.inImage(t, "two", func(root string) {
						st, err := os.Stat(filepath.Join(root, "d"))
						try(t, err)
						mode = st.Mode().Perm()
					})
					return mode
				}
				fresh := start(t)
				fresh.build(t, request{dir: d, tag: "two", remote: remote})
				want := mode(fresh) // of the contents of a directory that is not copied itself, the usual one
				if got := mode(b); got != want || !strings.HasPrefix(line, "COPY d") && got != 0o700 {
					t.Errorf("the directory's mode is %v, that of a first build %v", got, want)
				}
			})
		}
	}
}

// capability is cap_net_raw+ep as the kernel stores it (linux/capability.h, vfs_cap_data).
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// Extended attributes come with files and directories, also capabilities, and a change of one alone is seen.
func TestExtendedAttributes(t *testing.T) {
	for client, remote := range clients {
		t.Run(client, func(t *testing.T) {
			b, d := start(t), t.TempDir()
			write(t, d, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "f": "x", "d/g": "y"})
			f, dd := filepath.Join(d, "f"), filepath.Join(d, "d")
			try(t, sysx.LSetxattr(f, "security.capability", capability, 0), sysx.LSetxattr(f, "user.one", []byte("1"), 0),
				sysx.LSetxattr(dd, "user.dir", []byte("1"), 0))
			time.Sleep(50 * time.Millisecond)
			b.build(t, request{dir: d, tag: "one", remote: remote})
			look := func(tag string, want map[string]string) {
				t.Helper()
				b.inImage(t, tag, func(root string) {
					for name, v := range want {
						path, attr, _ := strings.Cut(name, " ")
						if got, err := sysx.LGetxattr(filepath.Join(root, path), attr); string(got) != v {
							t.Errorf("%s: %s is %q, want %q: %v", tag, name, got, v, err)
						}
					}
				})
			}
			look("one", map[string]string{"f security.capability": string(capability), "f user.one": "1", "d user.dir": "1"})
			try(t, sysx.LSetxattr(f, "user.one", []byte("2"), 0), sysx.LRemovexattr(f, "security.capability"),
				sysx.LSetxattr(dd, "user.dir", []byte("2"), 0))
			b.build(t, request{dir: d, tag: "two", remote: remote})
			look("two", map[string]string{"f security.capability": "", "f user.one": "2", "d user.dir": "2"})
		})
	}
}

// A name is bytes. Where a client's protocol can't carry it, the error says which.
func TestNamesThatAreNotText(t *testing.T) {
	b, d := start(t), t.TempDir()
	write(t, d, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "caf\xe9/th\xe9": "x"})
	try(t, os.Symlink("caf\xe9", filepath.Join(d, "link")))
	b.build(t, request{dir: d, tag: "one"})
	b.inImage(t, "one", func(root string) {
		if got, err := os.ReadFile(filepath.Join(root, "link/th\xe9")); string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
	})
	write(t, d, map[string]string{"a/before": ""})
	_, err := b.client.Solve(t.Context(), nil, request{dir: d, tag: "two", remote: true}.solveOpt(t), nil)
	if err == nil || !strings.Contains(err.Error(), `after "a/before" in directory "a"`) || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("%v", err)
	}
}

// What can't be read is an error that names it, and not an empty file; a socket has nothing to be read.
func TestUnreadableFile(t *testing.T) {
	b, d := start(t), t.TempDir()
	write(t, d, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	try(t, err)
	defer unix.Close(fd)
	at := filepath.Join(shortDir(t), "s")
	try(t, unix.Bind(fd, &unix.SockaddrUnix{Name: at}), os.Rename(at, filepath.Join(d, "socket")))
	b.build(t, request{dir: d, tag: "one"})
	b.build(t, request{dir: d, tag: "one"})
}

// Of many files of which one has changed, one is sent.
func TestOneOfManyIsSent(t *testing.T) {
	b, d := start(t), t.TempDir()
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"}
	for i := range 2000 {
		files[fmt.Sprintf("d%d/f%d", i%20, i)] = strings.Repeat("x", 1000)
	}
	write(t, d, files)
	time.Sleep(50 * time.Millisecond)
	b.build(t, request{dir: d, tag: "one"})
	try(t, os.WriteFile(filepath.Join(d, "d1/f1"), []byte(strings.Repeat("y", 1000)), 0o644))
	if sent := b.sent(t, request{dir: d, tag: "two"}); sent < 1000 || sent > 500_000 {
		t.Errorf("%d bytes were transferred", sent)
	}
}

// sent builds and returns how many bytes of the context were transferred.
func (b *bench) sent(t testing.TB, req request) (bytes int64) {
	t.Helper()
	ch := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range ch {
			for _, st := range s.Statuses {
				if st.ID == "transferring context:" {
					bytes = max(bytes, st.Current)
				}
			}
		}
	}()
	if _, err := b.client.Solve(t.Context(), nil, req.solveOpt(t), ch); err != nil {
		t.Fatal(err)
	}
	<-done
	return bytes
}
