package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// vm is a virtual machine: a kernel that Debian ships, busybox, and what the test fetches into it. It has
// QEMU's user-mode network, so nothing of it is on the host but a process and ports of loopback.
type vm struct {
	t       *testing.T
	dir     string // of what it boots from
	arch    string // GOARCH
	disk    string
	console string
	files   *http.Server
	served  map[string]string // files by the names under which the machine gets them
	host    string            // port of files
	agent   string            // host:port on this side
	web     string            // this side of the machine's port 8080
	lan     *os.File          // an end of a second network, as package net has it; may be nil
	qemu    *exec.Cmd
	ended   chan struct{}
	release string
}

// newVM makes a machine that is not on yet.
func newVM(t *testing.T, name string) *vm {
	t.Helper()
	need.Root(t)
	arch, _, _ := strings.Cut(name, "-")
	need.Tool(t, emulatorOf(arch))
	m := &vm{t: t, dir: filepath.Join("..", "..", ".cache", "vm", name), arch: arch, served: map[string]string{}}
	release, err := os.ReadFile(need.File(t, filepath.Join(m.dir, "release"), "vms"))
	if err != nil {
		t.Fatal(err)
	}
	m.release = strings.TrimSpace(string(release))
	tmp := t.TempDir()
	m.disk, m.console = filepath.Join(tmp, "disk"), filepath.Join(tmp, "console")
	m.tool("mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(m.dir, "root"), m.disk, "6G")
	m.serve("agent", m.compile("../../testdata/vm/agent"))
	m.listen()
	m.agent, m.web = "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	t.Cleanup(func() {
		m.off()
		if t.Failed() {
			log, _ := os.ReadFile(m.console)
			t.Logf("console:\n%s", tail(string(log), 40))
		}
	})
	return m
}

func emulatorOf(arch string) string {
	if arch == "arm" {
		return "qemu-system-arm"
	}
	return "qemu-system-x86_64"
}

// compile makes a program for the machine.
func (m *vm) compile(dir string) string {
	out := filepath.Join(m.t.TempDir(), filepath.Base(dir))
	cmd := exec.CommandContext(m.t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, dir)
	cmd.Env = append(os.Environ(), "GOARCH="+m.arch, "GOARM=7", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("building %s: %v\n%s", dir, err, text)
	}
	return out
}

// serve offers a file of the host to the machine.
func (m *vm) serve(name, path string) { m.served["/"+name] = path }

func (m *vm) listen() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	_, m.host, _ = net.SplitHostPort(l.Addr().String())
	m.files = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := m.served[r.URL.Path]; ok {
			http.ServeFile(w, r, path)
			return
		}
		http.NotFound(w, r)
	})}
	go func() { _ = m.files.Serve(l) }()
	m.t.Cleanup(func() { _ = m.files.Close() })
}

// tool runs a command of the host.
func (m *vm) tool(name string, args ...string) {
	m.t.Helper()
	if out, err := exec.CommandContext(m.t.Context(), name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// on starts the machine and waits until it answers.
func (m *vm) on() {
	m.t.Helper()
	network := "user,id=n,hostfwd=tcp:" + m.agent + "-:7,hostfwd=tcp:" + m.web + "-:8080"
	drive := "file=" + m.disk + ",format=raw,id=d,if=none,cache=unsafe"
	args := []string{"-display", "none", "-no-reboot", "-serial", "file:" + m.console,
		"-kernel", filepath.Join(m.dir, "kernel"), "-initrd", filepath.Join(m.dir, "initrd"), "-netdev", network, "-drive", drive}
	// One CPU: two that QEMU translates have been seen to wait for each other for ever (7.2, in a machine that was
	// virtual itself).
	boot := "quiet panic=1 host=" + m.host
	switch m.arch {
	case "arm":
		args = append(args, "-M", "virt,highmem=off", "-cpu", "cortex-a15", "-m", "2048", "-append", "console=ttyAMA0 "+boot,
			"-device", "virtio-blk-device,drive=d", "-device", "virtio-net-device,netdev=n")
	default:
		cpu := []string{"-accel", "tcg", "-cpu", "max"}
		if os.Getenv("GANTRY_VM_ACCEL") == "kvm" {
			cpu = []string{"-accel", "kvm", "-cpu", "host"}
		}
		args = append(append(args, cpu...), "-M", "q35", "-m", "2048", "-append", "console=ttyS0 "+boot,
			"-device", "virtio-blk-pci,drive=d", "-device", "virtio-net-pci,netdev=n")
	}
	if m.lan != nil { // virt's devices come in reverse
		second := []string{"-netdev", "tap,id=lan,fd=3", "-device", "virtio-net-device,netdev=lan,mac=52:54:00:77:00:50"}
		args = append(second, args...)
	}
	m.qemu = exec.Command(emulatorOf(m.arch), args...)
	if m.lan != nil {
		m.qemu.ExtraFiles = []*os.File{m.lan}
	}
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	m.qemu.Stderr = &stderr
	if err := m.qemu.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.ended = make(chan struct{})
	go func(q *exec.Cmd, ended chan struct{}) { _ = q.Wait(); close(ended) }(m.qemu, m.ended)
	for end := time.Now().Add(3 * time.Minute); ; {
		if _, code, err := m.try("true"); err == nil && code == 0 {
			return
		}
		select {
		case <-m.ended:
			m.t.Fatalf("the machine has ended: %s", stderr.String())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(end) {
			m.t.Fatal("the machine does not answer after 3 minutes")
		}
	}
}

// off cuts the power.
func (m *vm) off() {
	if m.qemu != nil {
		_ = m.qemu.Process.Kill()
		<-m.ended
		m.qemu = nil
	}
}

// restart has the machine write everything to its disk, and starts it again. What runs in it is not told.
func (m *vm) restart() {
	m.t.Helper()
	m.run("sync")
	m.off()
	m.on()
}

// try runs a shell script in the machine. err says that the machine does not answer.
func (m *vm) try(script string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.t.Context()), 15*time.Minute) // also while the test ends
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.agent+"/", strings.NewReader(script))
	if err != nil {
		return "", 0, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return string(text), 0, err
	}
	if code, err = strconv.Atoi(resp.Trailer.Get("Exit-Code")); err != nil {
		err = errors.New("no exit code")
	}
	return strings.TrimSpace(string(text)), code, err
}

// run wants a script to end well, and returns what it prints.
func (m *vm) run(script string) string {
	m.t.Helper()
	out, code, err := m.try(script)
	if err != nil || code != 0 {
		m.t.Fatalf("%s: exit code %d, %v\n%s", script, code, err, tail(out, 40))
	}
	return out
}

// expect wants a script's exit code and words in what it prints.
func (m *vm) expect(script string, code int, words ...string) string {
	m.t.Helper()
	out, got, err := m.try(script)
	if err != nil || got != code {
		m.t.Errorf("%s: exit code %d, want %d, %v\n%s", script, got, code, err, tail(out, 40))
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			m.t.Errorf("%s: %q is not in\n%s", script, w, tail(out, 40))
		}
	}
	return out
}

// get fetches files of the host into a directory of the machine.
func (m *vm) get(dir string, names ...string) {
	m.t.Helper()
	for _, n := range names {
		m.run(fmt.Sprintf("mkdir -p %s && wget -q -O %s/%s http://10.0.2.2:%s/%s && chmod 755 %s/%s", dir, dir, n, m.host, n, dir, n))
	}
}
