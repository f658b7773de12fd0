package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A namespace made by the machine belongs to the user namespace that emulated programs join, and the
// process that made it keeps no mount of the host and ends with the machine.
func TestNewNetwork(t *testing.T) {
	o := realOptions(t)
	m, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ns, err := m.NewNetwork()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	second, err := m.NewNetwork()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if a, b := inode(t, ns), inode(t, second); a == b {
		t.Error("two namespaces are one")
	}
	owner, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	user := os.NewFile(uintptr(owner), "owner")
	defer user.Close()
	if inode(t, user) != inode(t, m.ns.user) {
		t.Error("the owner is not the emulation's user namespace")
	}
	pid := m.ns.maker.cmd.Process.Pid
	mounts, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	if err != nil || strings.Count(string(mounts), "\n") != 1 {
		t.Errorf("the maker's mounts: %v\n%s", err, mounts)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); !os.IsNotExist(err) {
		t.Errorf("the maker is still there: %v", err)
	}
	if _, err := m.NewNetwork(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A maker that was killed says so at every further question, and hangs no one.
func TestMakerKilled(t *testing.T) {
	m, err := Start(t.Context(), realOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.NewNetwork(); err != nil {
		t.Fatal(err)
	}
	if err := m.ns.maker.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ns, err := m.NewNetwork(); err == nil {
			ns.Close()
			t.Fatal("a dead process made a namespace")
		}
	}
}

func TestNoMaker(t *testing.T) {
	m := open(t, Options{}, fake{cpus: cpu("amd64"), refuse: errors.New("old kernel")})
	if _, err := m.NewNetwork(); !errors.Is(err, ErrNoNamespace) {
		t.Errorf("got %v", err)
	}
}

// The program is the same on every architecture that gantry runs on; the foreign ones run in an emulator.
func TestMakerCode(t *testing.T) {
	emulators := realOptions(t).Emulators
	for _, arch := range []string{"amd64", "arm64", "arm"} {
		t.Run(arch, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "maker")
			if err := os.WriteFile(path, makerProgram(arch), 0o700); err != nil {
				t.Fatal(err)
			}
			argv := []string{path}
			if arch != runtime.GOARCH {
				argv = []string{emulators[arch].Path, path}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			theirs := os.NewFile(uintptr(pair[1]), "child")
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.ExtraFiles = []*os.File{theirs}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			theirs.Close()
			m := &maker{socket: pair[0], cmd: cmd}
			for range 3 {
				if answer, err := m.ask(); answer != 0 || err != nil {
					t.Fatalf("answer %d, %v", answer, err)
				}
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func BenchmarkNewNetwork(b *testing.B) {
	m, err := Start(b.Context(), Options{Emulators: map[string]Emulator{"arm": {Path: carried("qemu-arm")}}})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for b.Loop() {
		ns, err := m.NewNetwork()
		if err != nil {
			b.Skip(err)
		}
		ns.Close()
	}
}
