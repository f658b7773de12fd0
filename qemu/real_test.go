package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"

	"github.com/gantry-build/gantry/internal/need"
)

// carried is where `make payload` puts programs.
func carried(name string) string {
	path, err := filepath.Abs(filepath.Join("..", ".cache", "payload", runtime.GOARCH, name))
	if err != nil {
		return name
	}
	return path
}

// realOptions are the emulators of this repository's cache.
func realOptions(t *testing.T) Options {
	t.Helper()
	need.That(t, os.Geteuid() == 0, "needs root, for user namespaces of all ids")
	o := Options{Emulators: map[string]Emulator{}}
	for _, arch := range []string{"arm", "arm64", "amd64"} {
		if path := carried(Program(arch)); arch != runtime.GOARCH && exists(path) {
			o.Emulators[arch] = Emulator{Path: path}
		}
	}
	need.That(t, len(o.Emulators) == 2, "needs the emulators; run `make payload`")
	return o
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestContainers(t *testing.T) {
	o := realOptions(t)
	s := newSandbox(t)
	before := trace(t)
	begin := time.Now()
	m, err := Start(t.Context(), o)
	returned := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	way, err := m.Way(platforms.MustParse("linux/arm/v7"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Start returned after %v, the first answer came after %v", returned, time.Since(begin))

	const script = `uname -m; sh -c 'uname -m'; ls /dev/.binfmt | wc -l; ls -d /sys/class; cut -c1-40 /proc/self/uid_map`
	for _, own := range []bool{true, false} {
		dir, id := s.bundle(t, s.spec(t, way, own, script))
		got := strings.Fields(s.do(t, "run", "--bundle", dir, id))
		want := strings.Fields("armv7l armv7l 0 /sys/class 0 0 4294967295")
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("own network %v: got %q, want %q", own, got, want)
		}
	}
	t.Run("setuid", func(t *testing.T) {
		dir, id := s.bundle(t, s.spec(t, way, true, `cp /usr/bin/id /usr/bin/rootid && chmod 4755 /usr/bin/rootid &&
			setpriv --reuid 1234 --regid 1234 --clear-groups sh -c 'id -u; rootid -u'`))
		if got := s.do(t, "run", "--bundle", dir, id); got != "1234\n0" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("table is out of reach", func(t *testing.T) {
		dir, id := s.bundle(t, s.spec(t, way, true, `echo -1 2>/dev/null >/dev/.binfmt/status || echo kept; sh -c 'uname -m'`))
		if got := s.do(t, "run", "--bundle", dir, id); got != "kept\narmv7l" {
			t.Errorf("got %q", got)
		}
	})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if after := trace(t); after != before {
		t.Errorf("the host changed\nfrom %s\n  to %s", before, after)
	}
}

// holderVar makes the test's program a daemon that holds a Machine.
const holderVar = "GANTRY_QEMU_TEST_HOLDER"

func holder() {
	o := Options{}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(json.Unmarshal([]byte(os.Getenv(holderVar)), &o.Emulators))
	m, err := Start(context.Background(), o)
	fail(err)
	w, err := m.Way(platforms.MustParse("linux/arm/v7"))
	fail(err)
	fail(json.NewEncoder(os.Stdout).Encode(w))
	time.Sleep(5 * time.Minute) // until it is killed
	fail(m.Close())
}

// A container goes on, and starts programs, when its daemon is killed.
func TestContainerOutlivesDaemon(t *testing.T) {
	o := realOptions(t)
	s := newSandbox(t)
	before := trace(t)
	text, err := json.Marshal(o.Emulators)
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("/proc/self/exe")
	daemon.Env = append(os.Environ(), holderVar+"="+string(text))
	daemon.Stderr = os.Stderr
	stdout, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var way Way
	err = json.NewDecoder(stdout).Decode(&way)
	dir, id := s.bundle(t, s.spec(t, way, true, `while sleep 0.1; do :; done`))
	if err == nil {
		detached(t, s, dir, id)
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if got := s.do(t, "exec", id, "sh", "-c", "uname -m; sh -c 'uname -m'"); got != "armv7l\narmv7l" {
		t.Errorf("exec after the daemon's death: %q", got)
	}
	if state := s.do(t, "state", id); !strings.Contains(state, `"running"`) {
		t.Errorf("state is %s", state)
	}
	s.do(t, "delete", "--force", id)
	if after := trace(t); after != before {
		t.Errorf("the host changed\nfrom %s\n  to %s", before, after)
	}
}

func TestExecEmulated(t *testing.T) {
	o := realOptions(t)
	before := trace(t)
	dir := t.TempDir()
	arm := filepath.Join(dir, "arm")
	if err := os.WriteFile(arm, tiny("arm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if runtime.GOARCH == "amd64" && exec.Command(arm).Run() == nil {
		t.Log("the host starts arm programs by itself")
	}
	for _, c := range []struct {
		argv []string
		want int
	}{
		{[]string{arm}, 0},
		{[]string{"sh", "-c", arm + " && exit 7"}, 7},
		{[]string{"unshare", "--mount", "chroot", "/", arm}, 0},
		{[]string{"sh", "-c", "test -e " + hostTable + "/qemu-arm"}, 0},
		{[]string{"sh", "-c", "test -z \"$" + childVar + "\""}, 0},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
	} {
		if code, err := ExecEmulated(t.Context(), o, c.argv); err != nil || code != c.want {
			t.Errorf("%q: exit code %d, %v, want %d", c.argv, code, err, c.want)
		}
	}
	if _, err := ExecEmulated(t.Context(), Options{Emulators: map[string]Emulator{"arm": {Path: "/nonesuch"}}},
		[]string{"true"}); err == nil ||
		!strings.Contains(err.Error(), "qemu-arm was not accepted") {
		t.Errorf("missing emulator: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if code, err := ExecEmulated(ctx, o, []string{"sleep", "60"}); code != 143 && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: exit code %d, %v", code, err)
	}
	if after := trace(t); after != before {
		t.Errorf("the host changed\nfrom %s\n  to %s", before, after)
	}
}

// No descriptor stays, whether or not the machine was ever asked.
func TestCloseLeavesNothing(t *testing.T) {
	o := realOptions(t)
	for i := range 3 {
		m, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			m.Platforms()
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		to, _ := os.Readlink("/proc/self/fd/" + l.Name())
		if strings.HasPrefix(to, "user:") || to == "/" {
			t.Errorf("descriptor %s is still %s", l.Name(), to)
		}
	}
}

// The tiny programs are what they claim, and the probe believes only success.
func TestTinyPrograms(t *testing.T) {
	if !(linux{}).runs(t.Context(), tiny(runtime.GOARCH)) {
		t.Errorf("this machine does not run its own program for %s", runtime.GOARCH)
	}
	if (linux{}).runs(t.Context(), tiny("s390x")) {
		t.Error("an empty program ran")
	}
	if (linux{}).runs(t.Context(), bytes.Repeat([]byte{0}, 200)) {
		t.Error("zeros ran")
	}
}
