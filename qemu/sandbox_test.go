package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/internal/need"
)

// sandbox is a root file system of Debian for arm, to run containers on.
type sandbox struct {
	runc, state, root string
	count             int
}

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	tar, err := filepath.Abs("../.cache/base/bookworm-slim-arm.tar")
	need.That(t, err == nil && exists(tar), "needs .cache/base/bookworm-slim-arm.tar; run `make bases`")
	s := &sandbox{runc: carried("runc"), state: t.TempDir(), root: t.TempDir()}
	need.That(t, exists(s.runc), "needs runc; run `make payload`")
	if out, err := exec.Command("tar", "-xf", tar, "-C", s.root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

// spec is a container of the sandbox running a shell script its own way.
func (s *sandbox) spec(t *testing.T, w Way, ownNetwork bool, script string) *specs.Spec {
	t.Helper()
	caps := []string{"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_FOWNER", "CAP_DAC_OVERRIDE"}
	spec := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: s.root},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
		}},
	}
	if ownNetwork {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if err := w.Edit(spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func (s *sandbox) bundle(t *testing.T, spec *specs.Spec) (dir, id string) {
	t.Helper()
	dir = t.TempDir()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.count++
	id = fmt.Sprintf("gantry-qemu-%d-%d", os.Getpid(), s.count)
	t.Cleanup(func() { _ = exec.Command(s.runc, "--root", s.state, "delete", "--force", id).Run() })
	return dir, id
}

func (s *sandbox) do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(s.runc, append([]string{"--root", s.state}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("runc %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// trace is what emulation must leave as it was on the host.
func trace(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	entries, err := readEntries(hostTable)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, entries)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "binfmt") || strings.Contains(line, "nsfs") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// detached starts a container in the background; its output must not be a pipe of
// the test, or the test would wait for its end.
func detached(t *testing.T, s *sandbox, dir, id string) {
	t.Helper()
	log := filepath.Join(dir, "log")
	cmd := exec.Command(s.runc, "--root", s.state, "--log", log, "run", "--detach", "--bundle", dir, id)
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("%v: %s", err, text)
	}
}
