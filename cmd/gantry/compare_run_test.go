package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
)

// cliEngine is a container engine by its command line. The peers have a network namespace of their own.
type cliEngine struct {
	b       *testing.B
	name    string
	command []string // what its arguments follow
	env     []string
	pid     int // of a process in its network namespace
}

func (e cliEngine) try(args ...string) (string, error) {
	all := append(append([]string{}, e.command...), args...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Env = append(os.Environ(), e.env...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (e cliEngine) run(args ...string) string {
	e.b.Helper()
	out, err := e.try(args...)
	if err != nil {
		e.b.Fatalf("%s %s: %v\n%s", e.name, strings.Join(args, " "), err, out)
	}
	return out
}

// limits are given to each container: podman asks for more than every machine allows.
var limits = []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}

const benchImage = "localhost/bench:1"

// BenchmarkRunAgainstDockerAndPodman runs the same containers by gantry, by Debian's docker.io and by podman in turn. The
// peer of a row is the better one of them.
func BenchmarkRunAgainstDockerAndPodman(b *testing.B) {
	g := newGantry(b)
	g.base("linux/amd64")
	g.run("tag", "debian:bookworm-slim", benchImage)
	image := filepath.Join(b.TempDir(), "image.tar")
	g.run("save", "-o", image, benchImage)
	ours := cliEngine{b: b, name: "gantry", command: []string{g.bin}, env: g.env}
	docker, daemons := dockerEngine(b)
	podman := podmanEngine(b)
	for _, e := range []cliEngine{docker, podman} {
		e.run("load", "-i", image)
	}
	all := []cliEngine{ours, docker, podman}
	var rows []row
	add := func(r row) { // what was measured is written at once
		rows = append(rows, r)
		report(b, "runtime", "the better of docker.io and podman of Debian", rows)
	}
	add(compared("run --rm IMAGE true", 8, all, oneTrue))
	add(compared("exec true", 8, all, oneExec))
	add(idleMemory(b, g, ours, docker, daemons))
	add(compared("50 starts at once", 1, all, fiftyStarts))
}

// BenchmarkPullAgainstDockerAndPodman pulls and unpacks three layers of real files.
func BenchmarkPullAgainstDockerAndPodman(b *testing.B) {
	g := newGantry(b)
	docker, _ := dockerEngine(b)
	podman := podmanEngine(b)
	report(b, "pulls", "the better of docker.io and podman of Debian", []row{bigPull(b, g, docker, podman)})
}

// compared does a work by all engines in turn, n times, and keeps the better peer.
func compared(name string, n int, all []cliEngine, work func(cliEngine) time.Duration) row {
	took := make([][]time.Duration, len(all))
	for round := range n + 1 {
		for i, e := range all {
			if d := work(e); round > 0 { // the first warms up
				took[i] = append(took[i], d)
			}
		}
	}
	best := 1
	for i := range all {
		if i > 0 && median(took[i]) < median(took[best]) {
			best = i
		}
	}
	return row{name: fmt.Sprintf("%s (peer: %s)", name, all[best].name), gantry: took[0], peer: took[best]}
}

func oneTrue(e cliEngine) time.Duration {
	args := append(append([]string{"run", "--rm"}, limits...), benchImage, "true")
	return timed(func() { e.run(args...) })
}

func fiftyStarts(e cliEngine) time.Duration {
	for i := range 50 {
		e.run(append(append([]string{"create", "--name", fmt.Sprint("fifty", i)}, limits...), benchImage, "sleep", "1000")...)
	}
	took := timed(func() {
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				if out, err := e.try("start", fmt.Sprint("fifty", i)); err != nil {
					e.b.Errorf("%s start: %v\n%s", e.name, err, out)
				}
			})
		}
		all.Wait()
	})
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint("fifty", i))
	}
	e.run(append([]string{"rm", "-f"}, names...)...)
	return took
}

func oneExec(e cliEngine) time.Duration {
	if _, err := e.try("inspect", "-f", "{{.State.Running}}", "execs"); err != nil {
		e.run(append(append([]string{"run", "-d", "--name", "execs"}, limits...), benchImage, "sleep", "1000")...)
	}
	return timed(func() { e.run("exec", "execs", "true") })
}

// idleMemory is what the daemons of gantry and docker hold with twenty containers that sleep, as seconds for MiB.
func idleMemory(b *testing.B, g *gantry, ours, docker cliEngine, daemons []int) row {
	hold := func(e cliEngine, pids ...int) time.Duration {
		for i := range 20 {
			e.run(append(append([]string{"run", "-d", "--name", fmt.Sprint("idle", i)}, limits...), benchImage, "sleep", "1000")...)
		}
		time.Sleep(5 * time.Second)
		var kib int64
		for _, pid := range pids {
			kib += proportional(b, pid)
		}
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprint("idle", i))
		}
		e.run(append([]string{"rm", "-f"}, names...)...)
		return time.Duration(kib) * time.Second / 1024
	}
	return row{
		name:   "memory of the idle daemon with 20 containers (peer: dockerd and containerd)",
		gantry: []time.Duration{hold(ours, g.status().PID)}, peer: []time.Duration{hold(docker, daemons...)}, unit: "MiB",
	}
}

// proportional is a process's share of memory, in KiB (proc_pid_smaps(5): Pss).
func proportional(b *testing.B, pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no Pss")
	return 0
}

// bigPull pulls and unpacks three layers of real files, some 300 MB, of another image each time: a file system may take long
// to make files where many were deleted a moment ago (ext4 without a journal looks for inodes that were not).
func bigPull(b *testing.B, g *gantry, docker, podman cliEngine) row {
	crane, err := filepath.Abs(need.File(b, "../../.cache/peers/crane", "peers"))
	if err != nil {
		b.Fatal(err)
	}
	goroot := strings.TrimSpace(string(must(exec.Command("go", "env", "GOROOT").Output())))
	context := b.TempDir()
	for layer, dirs := range map[string]string{"a": "bin pkg", "b": "src", "c": "bin api lib misc pkg/tool"} {
		script := fmt.Sprintf("mkdir %s/%s && cd %s && for d in %s; do [ -e $d ] && cp -r --parents $d %[1]s/%[2]s; done; true",
			context, layer, goroot, dirs)
		must(exec.Command("sh", "-c", script).CombinedOutput())
	}
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"),
		[]byte("FROM scratch\nCOPY a /a\nCOPY b /b\nCOPY c /c\nCMD [\"x\"]\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	port := freePort(b)
	ref := "127.0.0.1:" + port + "/big:"
	cmd := exec.Command(crane, "registry", "serve", "--address", "127.0.0.1:"+port)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, e := range []cliEngine{docker, podman} {
		forward(b, e.pid, "127.0.0.1:"+port)
	}
	const rounds = 3
	builder := newGantry(b)
	for i := range rounds + 1 {
		for _, layer := range []string{"a", "b", "c"} {
			if err := os.WriteFile(filepath.Join(context, layer, "round"), []byte{byte('0' + i)}, 0o644); err != nil {
				b.Fatal(err)
			}
		}
		builder.run("build", "-q", "-t", ref+strconv.Itoa(i), "--push", context)
	}
	pulled := map[string]int{}
	all := []cliEngine{{b: b, name: "gantry", command: []string{g.bin}, env: g.env}, docker, podman}
	return compared("pull and unpack 3 layers of "+sizeOf(b, context), rounds, all, func(e cliEngine) time.Duration {
		args := []string{"pull", "-q"}
		if e.name == "podman" {
			args = append(args, "--tls-verify=false")
		}
		args = append(args, ref+strconv.Itoa(pulled[e.name]))
		pulled[e.name]++
		return timed(func() { e.run(args...) })
	})
}

func sizeOf(b *testing.B, dir string) string {
	out := must(exec.Command("du", "-sm", dir).Output())
	return strings.Fields(string(out))[0] + " MB"
}

func must(out []byte, err error) []byte {
	if err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	return out
}

// dockerEngine is Debian's docker.io, and the process IDs of its daemons.
func dockerEngine(b *testing.B) (cliEngine, []int) {
	socket := startDocker(b, alone)
	root, err := filepath.Abs("../../.cache/peers/docker.io")
	if err != nil {
		b.Fatal(err)
	}
	var daemons []int
	for _, p := range processesOf(b, filepath.Dir(socket)) {
		daemons = append(daemons, p.pid)
	}
	return cliEngine{b: b, name: "docker.io", command: []string{root + "/usr/bin/docker", "-H", "unix://" + socket}, pid: daemons[0]},
		daemons
}

type process struct {
	pid  int
	line string
}

// processesOf lists the processes that have a directory in their command line.
func processesOf(b *testing.B, dir string) (found []process) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range all {
		text, err := os.ReadFile(f)
		line := strings.ReplaceAll(string(text), "\x00", " ")
		pid, bad := strconv.Atoi(strings.Split(f, "/")[2])
		if err == nil && bad == nil && strings.Contains(line, dir) && !strings.Contains(line, "containerd-shim") {
			found = append(found, process{pid, line})
		}
	}
	if len(found) == 0 {
		b.Fatalf("no process has %s in its command line", dir)
	}
	return found
}

// podmanEngine is Debian's podman in a network namespace of its own, with gantry's runc.
func podmanEngine(b *testing.B) cliEngine {
	podman := need.Tool(b, "podman")
	runc, err := filepath.Abs("../../.cache/payload/amd64/runc")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	holder := exec.CommandContext(ctx, "unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep 1000000")
	if err := holder.Start(); err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gantry-podman-")
	if err != nil {
		b.Fatal(err)
	}
	inside := []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", holder.Process.Pid)}
	e := cliEngine{b: b, name: "podman", pid: holder.Process.Pid, command: append(append([]string{}, inside...), podman, "--runtime", runc,
		"--root", dir+"/root", "--runroot", dir+"/run", "--cgroup-manager", "cgroupfs", "--events-backend", "none")}
	b.Cleanup(func() {
		_, _ = e.try("rm", "-af", "-t", "0")
		_, _ = e.try("rmi", "-af")
		cancel()
		_ = holder.Wait()
		for _, m := range mountsBelow(dir) {
			_ = exec.Command("umount", "-l", m).Run()
		}
		_ = os.RemoveAll(dir)
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) { // until it is in its namespace
		if out, _ := exec.Command(inside[0], inside[1], "ip", "-o", "link").Output(); strings.Count(string(out), "\n") == 1 {
			return e
		}
		if time.Now().After(end) {
			b.Fatal("there is no network namespace for podman")
		}
	}
}

// forward has an address in the network namespace of a process lead to the same one here.
func forward(b *testing.B, pid int, address string) {
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", address)
		}
		if err != nil {
			b.Error(err)
		}
		listening <- l
	}()
	l := <-listening
	if l == nil {
		b.FailNow()
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", address)
			if err != nil {
				from.Close()
				continue
			}
			go func() { _, _ = io.Copy(to, from); to.(*net.TCPConn).CloseWrite() }()
			go func() { _, _ = io.Copy(from, to); from.Close() }()
		}
	}()
}
