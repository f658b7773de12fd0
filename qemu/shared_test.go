package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
)

// memory is a table that registers as the kernel does, as far as the lines of this package go.
type memory struct {
	mu     sync.Mutex
	list   []entry
	refuse error
	closed bool

	attached string
}

func (m *memory) entries() ([]entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list), nil
}

func (m *memory) register(line string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return m.refuse
	}
	f := strings.Split(line[1:], line[:1])
	for _, e := range m.list {
		if e.name == f[0] {
			return unix.EEXIST
		}
	}
	e := entry{name: f[0], interpreter: f[5], flags: f[6], enabled: true}
	e.magic, _ = hex.DecodeString(strings.ReplaceAll(f[3], `\x`, ""))
	e.mask, _ = hex.DecodeString(strings.ReplaceAll(f[4], `\x`, ""))
	m.list = append([]entry{e}, m.list...)
	return nil
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = slices.DeleteFunc(m.list, func(e entry) bool { return e.name == name })
	return nil
}

func (m *memory) close() error { m.closed = true; return nil }

func (m *memory) attach(path string) error { m.attached = path; return nil }

func (m *memory) names() string {
	var all []string
	for _, e := range m.list {
		all = append(all, e.name)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// old is a machine whose kernel has one table for all.
func old(host ...entry) fake {
	return fake{cpus: cpu("amd64"), also: true, refuse: fmt.Errorf("kernel 6.1 %w", errOnlyShared), host: host, shared: &memory{list: host}}
}

// edit asks for the way of a platform and uses it.
func edit(t *testing.T, m *Machine, platform string) Way {
	t.Helper()
	w, err := m.Way(platforms.MustParse(platform))
	if err == nil {
		err = w.Edit(&specs.Spec{})
	}
	if err != nil {
		t.Fatalf("%s: %v", platform, err)
	}
	return w
}

// On an old kernel an entry is made when it is first needed, and gone at the end.
func TestShared(t *testing.T) {
	k := old()
	m := open(t, Options{Emulators: both, Mount: "/nonesuch/table"}, k)
	if got := len(m.Platforms()); got != 5 {
		t.Errorf("%d platforms", got)
	}
	if got := k.shared.names(); got != "" {
		t.Errorf("before use: %s", got)
	}
	w := edit(t, m, "linux/arm/v7")
	if k.shared.attached != "/nonesuch/table" {
		t.Errorf("mounted at %q", k.shared.attached)
	}
	if !w.Shared() || w.Entry != "gantry-arm" || w.Namespace != "" || w.Version != "7.2" || w.Emulator != "/q/arm" {
		t.Errorf("%+v", w)
	}
	edit(t, m, "linux/arm/v6")
	if got := k.shared.names(); got != "gantry-arm" {
		t.Errorf("in use: %s", got)
	}
	if e := k.shared.list[0]; e.flags != "PFC" || e.interpreter != "/q/arm" {
		t.Errorf("%+v", e)
	}
	_ = k.shared.remove("gantry-arm") // by somebody else
	edit(t, m, "linux/arm/v7")
	if err := open(t, Options{Emulators: both}, k).Close(); err != nil { // of one that only looks
		t.Fatal(err)
	}
	if got := k.shared.names(); got != "gantry-arm" {
		t.Errorf("after a look: %s", got)
	}
	m.Leave()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := k.shared.names(); got != "" || !k.shared.closed {
		t.Errorf("after the end: %s, closed %v", got, k.shared.closed)
	}
}

// Entries stay for programs that go on; the next one takes them over, those of another emulator anew, and
// leaves other data roots' and other people's alone.
func TestSharedStays(t *testing.T) {
	k := old()
	m := open(t, Options{Emulators: both, Owner: "1234"}, k)
	edit(t, m, "linux/arm/v7")
	edit(t, m, "linux/arm64")
	m.Leave("arm")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := k.shared.names(); got != "gantry-1234-arm" {
		t.Errorf("kept: %s", got)
	}

	for _, name := range []string{"gantry-arm", "qemu-riscv64"} {
		line, _ := targets()[4].line(name, "/x", "F")
		if err := k.shared.register(line); err != nil {
			t.Fatal(err)
		}
	}
	newer := map[string]Emulator{"arm": {"/q/new/arm", "9"}}
	m = open(t, Options{Emulators: newer, Owner: "1234"}, k)
	edit(t, m, "linux/arm/v7")
	all, _ := k.shared.entries()
	if e := all[0]; e.name != "gantry-1234-arm" || e.interpreter != "/q/new/arm" {
		t.Errorf("%+v", e)
	}
	m.Leave()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := k.shared.names(); got != "gantry-arm qemu-riscv64" {
		t.Errorf("after the end: %s", got)
	}
}

// What a command has left that was killed goes, what a command has that runs stays.
func TestSharedSweep(t *testing.T) {
	mine, err := commandOwner()
	if err != nil {
		t.Fatal(err)
	}
	k := old(entry{name: "gantry-exec-1.1-arm"}, entry{name: mine + "-arm"}, entry{name: "gantry-exec"}, entry{name: "exec-1.1-arm"})
	open(t, Options{Emulators: both}, k).Platforms()
	if got := k.shared.names(); got != "exec-1.1-arm gantry-exec "+mine+"-arm" {
		t.Error(got)
	}
}

func TestSharedRefusals(t *testing.T) {
	noFlag, works, broken := hostArm("PO"), hostArm("POF"), old(hostArm("POF"))
	broken.broken = true
	full, readOnly := old(), old()
	full.shared.refuse, readOnly.shared.refuse = unix.ENOSPC, unix.EROFS
	gone := old()
	gone.noTable = fmt.Errorf("kernel 6.1 %w", errNoBinfmt)
	for _, c := range []struct {
		name string
		k    fake
		o    Options
		want string // "" is none
	}{
		{"another's", old(works), Options{}, ""},
		{"another's without F", old(noFlag), Options{}, "lacks flag F, which containers need; remove it (echo -1 " +
			">/proc/sys/fs/binfmt_misc/qemu-arm) and"},
		{"another's that is broken", broken, Options{}, "starts /usr/bin/qemu-arm-static, which does not run the platform's programs; " +
			"remove it (echo"},
		{"full", full, Options{}, "entry gantry-arm in the machine's binfmt_misc table: no space left on device; it takes no further " +
			"entry; `ls /proc"},
		{"read-only", readOnly, Options{}, "it is read-only here; run the daemon outside"},
		{"no binfmt_misc", gone, Options{}, "linux/arm/v7: kernel 6.1 has no binfmt_misc; install emulators"},
		{"private", old(), Options{Policy: Private}, "kernel 6.1 has one binfmt_misc table for the whole machine, and 6.7 is the first " +
			"with private ones; allow the machine's table with emulation = \"auto\""},
		{"private, another's", old(works), Options{Policy: Private}, ""},
		{"off", old(works), Options{Policy: Off}, "linux/arm/v7: emulation is off; set emulation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Emulators = both
			before := c.k.shared.names()
			w, err := open(t, c.o, c.k).Way(platforms.MustParse("linux/arm/v7"))
			if err == nil {
				err = w.Edit(&specs.Spec{})
			}
			if c.want == "" && err == nil && w.Entry == "qemu-arm" && !w.Shared() {
				return
			}
			if c.want == "" || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v\n got %v\nwant %s", w, err, c.want)
			}
			if after := c.k.shared.names(); after != before {
				t.Errorf("the table has changed from %s to %s", before, after)
			}
		})
	}
}

func TestKernelVersions(t *testing.T) {
	for r, want := range map[string]bool{"6.7.0": true, "6.18.5-cloud": true, "7.0": true, "6.1.0-41-amd64": false,
		"5.14.0-503.el9": false, "": false} {
		if got := AtLeast(r, 6, 7); got != want {
			t.Errorf("%q: %v", r, got)
		}
	}
}

// insideVar makes the test's program one that works in a user namespace, whose table is its machine's.
const insideVar = "GANTRY_QEMU_TEST_INSIDE"

// A table of this kernel takes the entry, starts a program by it, and is empty at the end.
func TestSharedReal(t *testing.T) {
	o := realOptions(t)
	exe, err := os.Executable()
	need.That(t, err == nil, "needs its own program")
	t.Setenv(insideVar, o.Emulators["arm"].Path)
	before := trace(t)
	// Without emulators the namespace's table is empty.
	code, err := ExecEmulated(t.Context(), Options{}, []string{exe})
	if err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if after := trace(t); after != before {
		t.Errorf("the host changed\nfrom %s\n  to %s", before, after)
	}
}

func insideNamespace(emulator string) error {
	tab, _, err := (linux{}).machine()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gantry-table-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	mount := dir + "/table"
	s := &shared{table: tab, owner: "gantry", mount: mount, p: true, log: slog.New(slog.DiscardHandler)}
	arm, _ := targetFor("arm")
	works := func() bool { return (linux{}).runs(context.Background(), tiny("arm")) }
	if works() {
		return errors.New("arm runs already")
	}
	for range 2 {
		if err := s.ensure(arm, emulator); err != nil {
			return err
		}
	}
	all, err := s.table.entries()
	if err != nil || len(all) != 1 || all[0].name != "gantry-arm" || all[0].flags != "POCF" {
		return fmt.Errorf("entries %+v, %w", all, err)
	}
	if !works() {
		return errors.New("arm does not run")
	}
	if out, err := exec.Command("cat", hostTable+"/gantry-arm").CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	if err := s.ensure(arm, "/nonesuch"); err == nil || !strings.Contains(err.Error(), "no such file") {
		return fmt.Errorf("a missing emulator: %w", err)
	}
	if err := s.ensure(arm, emulator); err != nil {
		return err
	}
	if _, err := os.Stat(mount + "/gantry-arm"); err != nil {
		return fmt.Errorf("the table is to be mounted: %w", err)
	}
	s.leave()
	if err := s.close(); err != nil {
		return err
	}
	if _, err := os.Stat(mount); err == nil {
		return errors.New("the table is still mounted")
	}
	if left, err := readEntries(hostTable); err != nil || len(left) > 0 {
		return fmt.Errorf("left %+v, %w", left, err)
	}
	return nil
}
