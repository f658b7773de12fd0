package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
)

// BenchmarkAgainstBuildkitd does the same work on gantry and on buildkitd + buildctl in turn, and
// writes medians, ranges and ratios into docs/benchmarks.md. COMPARE_ROUNDS is the number of cold
// builds (default 3).
func BenchmarkAgainstBuildkitd(b *testing.B) {
	rounds, _ := strconv.Atoi(os.Getenv("COMPARE_ROUNDS"))
	if rounds == 0 {
		rounds = 3
	}
	hub := newHub(b)
	p := &peer{b: b, hub: hub}
	var rows []row

	cold := row{name: "cold two-platform build of the sample, pushed"}
	for i := range rounds {
		cold.gantry = append(cold.gantry, hub.coldGantry(i))
		cold.peer = append(cold.peer, p.cold(i))
	}
	rows = append(rows, cold)

	g := hub.gantry()
	p.start()
	unchanged := row{name: "the same again, unchanged, not pushed"}
	build := func() { g.run("build", "-q", "--platform", both, "-t", "sample", sample) }
	peerBuild := func() { p.build(sample, both, "type=image,name=sample") }
	build()
	peerBuild()
	for range 10 {
		unchanged.gantry = append(unchanged.gantry, timed(build))
		unchanged.peer = append(unchanged.peer, timed(peerBuild))
	}
	rows = append(rows, unchanged)

	answer := row{name: "last build step ended to container answers (60 MB layer; peer: docker tar, podman load, podman run)"}
	for i := range rounds {
		answer.gantry = append(answer.gantry, answerGantry(g, i))
		answer.peer = append(answer.peer, p.answer(i))
	}
	rows = append(rows, answer)
	p.stop()
	report(b, "main job", "buildkitd + buildctl", rows)
}

const sample = "../../testdata/simple-rest-app"

func timed(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}

type row struct {
	name         string
	gantry, peer []time.Duration
	unit         string // what a second stands for; "" is a second
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func (r row) span(d []time.Duration) string {
	f := func(d time.Duration) string { return fmt.Sprintf("%.3g %s", d.Seconds(), cmp.Or(r.unit, "s")) }
	if len(d) == 1 {
		return f(d[0])
	}
	return fmt.Sprintf("%s (%s to %s)", f(median(d)), f(slices.Min(d)), f(slices.Max(d)))
}

// report prints the table and puts it into the page, between its marks.
func report(b *testing.B, name, peer string, rows []row) {
	var t strings.Builder
	t.WriteString("| work | gantry: median (range) | " + peer + " | ratio |\n|---|---|---|---|\n")
	for _, r := range rows {
		ratio := median(r.gantry).Seconds() / median(r.peer).Seconds()
		fmt.Fprintf(&t, "| %s, n=%d | %s | %s | **%.2f** |\n", r.name, len(r.gantry), r.span(r.gantry), r.span(r.peer), ratio)
	}
	b.Log("\n" + t.String())
	page := "../../docs/benchmarks.md"
	text, err := os.ReadFile(page)
	if err != nil {
		b.Fatal(err)
	}
	begin, end := "<!-- "+name+": begin -->\n", "<!-- "+name+": end -->"
	from, to := bytes.Index(text, []byte(begin)), bytes.Index(text, []byte(end))
	if from < 0 || to < from {
		b.Fatalf("%s has no marks for the table", page)
	}
	out := string(text[:from]) + begin + t.String() + string(text[to:])
	if err := os.WriteFile(page, []byte(out), 0o644); err != nil {
		b.Fatal(err)
	}
}

// hub is a registry that stands for Docker's: both sides take the base images from it and push to it.
type hub struct {
	b     testing.TB
	owner *gantry
	host  string
}

func newHub(b testing.TB) *hub {
	g := newGantry(b)
	g.base("linux/amd64", "linux/arm/v7")
	h := &hub{b: b, owner: g, host: g.registry(false)}
	ref := h.host + "/library/debian:bookworm-slim"
	g.run("tag", "debian:bookworm-slim", ref)
	g.run("push", ref)
	return h
}

// config writes a buildkitd.toml, which gantry reads too, into dir.
func (h *hub) config(dir string) string {
	path := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("[registry.\"docker.io\"]\n  mirrors = [%q]\n[registry.%q]\n  http = true\n", h.host, h.host)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.b.Fatal(err)
	}
	return path
}

func (h *hub) gantry() *gantry {
	g := newGantry(h.b)
	g.env = append(g.env, "GANTRY_CONFIG="+h.config(g.root))
	return g
}

func (h *hub) coldGantry(i int) time.Duration {
	g := h.gantry()
	g.run("daemon", "stop")
	defer g.run("daemon", "stop")
	return timed(func() {
		g.run("build", "-q", "--platform", both, "-t", fmt.Sprintf("%s/gantry:%d", h.host, i), "--push", sample)
	})
}

// peer is buildkitd, with the emulator registered on the host as it needs.
type peer struct {
	b      testing.TB
	hub    *hub
	root   string
	daemon *exec.Cmd
	undo   func()
}

func (p *peer) start() {
	p.b.Helper()
	root, err := os.MkdirTemp("", "peer-")
	if err != nil {
		p.b.Fatal(err)
	}
	p.root, p.undo = root, sync.OnceFunc(registerArm(p.b))
	p.b.Cleanup(p.undo)
	runc, err := filepath.Abs(need.File(p.b, "../../.cache/payload/amd64/runc", "build"))
	if err != nil {
		p.b.Fatal(err)
	}
	p.daemon = exec.Command(need.File(p.b, "../../.cache/peers/buildkitd", "peers"), "--config", p.hub.config(root), "--root", root,
		"--addr", p.addr(), "--oci-worker-net", "host", "--oci-worker-snapshotter", "overlayfs", "--containerd-worker=false")
	p.daemon.Env = append(os.Environ(), "PATH="+filepath.Dir(runc)+":"+os.Getenv("PATH")) // the same runc as ours
	log, err := os.Create(filepath.Join(root, "log"))
	if err != nil {
		p.b.Fatal(err)
	}
	p.daemon.Stderr = log
	if err := p.daemon.Start(); err != nil {
		p.b.Fatal(err)
	}
	daemon := p.daemon
	p.b.Cleanup(func() { _ = daemon.Process.Kill() }) // when something fails in between
	eventually(p.b, "buildkitd answers", func() error {
		return exec.Command("../../.cache/peers/buildctl", "--addr", p.addr(), "debug", "workers").Run()
	})
}

func (p *peer) addr() string { return "unix://" + p.root + "/sock" }

func (p *peer) stop() {
	_ = p.daemon.Process.Signal(unix.SIGTERM)
	_ = p.daemon.Wait()
	p.undo()
	if err := os.RemoveAll(p.root); err != nil {
		p.b.Error(err)
	}
}

func (p *peer) build(dir, platforms, output string, args ...string) {
	p.b.Helper()
	cmd := exec.Command("../../.cache/peers/buildctl",
		append([]string{"--addr", p.addr(), "build", "--progress", "plain", "--frontend", "dockerfile.v0",
			"--local", "context=" + dir, "--local", "dockerfile=" + dir, "--opt", "platform=" + platforms, "--output", output}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.b.Fatalf("buildctl: %v\n%s", err, tail(string(out), 40))
	}
}

func (p *peer) cold(i int) time.Duration {
	p.start()
	defer p.stop()
	return timed(func() {
		p.build(sample, both, fmt.Sprintf("type=image,name=%s/peer:%d,push=true", p.hub.host, i))
	})
}

// registerArm registers the emulator for the whole host, as the peer needs it, and returns the undo.
func registerArm(b testing.TB) func() {
	const table = "/proc/sys/fs/binfmt_misc"
	mounted := false
	if _, err := os.Stat(table + "/register"); err != nil {
		if err := unix.Mount("binfmt_misc", table, "binfmt_misc", 0, ""); err != nil {
			b.Fatal(err)
		}
		mounted = true
	}
	emulator, err := filepath.Abs(need.File(b, "../../.cache/payload/amd64/qemu-arm", "build"))
	if err != nil {
		b.Fatal(err)
	}
	line := `:peer-arm:M::` + armELF + `:` + emulator + `:PF`
	if err := os.WriteFile(table+"/register", []byte(line), 0); err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(table+"/peer-arm", []byte("-1"), 0); err != nil {
			b.Error(err)
		}
		if mounted {
			if err := unix.Unmount(table, 0); err != nil {
				b.Error(err)
			}
		}
	}
}

// serving is a build whose last step says when it ended.
func serving(b testing.TB, i int) string {
	d := dir(b, map[string]string{"Dockerfile": fmt.Sprintf(`FROM debian:bookworm-slim
COPY probe /probe
RUN echo %d; head -c 60000000 /dev/urandom > /blob; date +%%s%%N > /stamp
CMD ["/probe", "serve", "127.0.0.1:%s", "up"]
`, i, "18099")})
	program, err := os.ReadFile(filepath.Join(probe(b), "amd64"))
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d, "probe"), program, 0o755); err != nil {
		b.Fatal(err)
	}
	return d
}

// sinceStamp returns the time from the stamp in the container to now.
func sinceStamp(b testing.TB, now time.Time, stamp string) time.Duration {
	n, err := strconv.ParseInt(strings.TrimSpace(stamp), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return now.Sub(time.Unix(0, n))
}

func answerGantry(g *gantry, i int) time.Duration {
	b := g.t.(*testing.B)
	d := serving(b, i)
	g.run("build", "-q", "-t", "serving", d)
	id := g.run("run", "-d", "--network", "host", "serving")
	waitFor(b)
	now := time.Now()
	took := sinceStamp(b, now, g.run("exec", id, "cat", "/stamp"))
	g.run("rm", "-f", id)
	return took
}

func waitFor(b testing.TB) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if out, err := exec.Command("curl", "-fs", "http://127.0.0.1:18099/").Output(); err == nil && strings.HasPrefix(string(out), "up") {
			return
		}
	}
	b.Fatal("the container does not answer")
}

func (p *peer) answer(i int) time.Duration {
	podman := need.Tool(p.b, "podman")
	d := serving(p.b, i)
	tar := filepath.Join(p.root, "image.tar")
	runc, err := filepath.Abs("../../.cache/payload/amd64/runc")
	if err != nil {
		p.b.Fatal(err)
	}
	store := []string{"--runtime", runc, "--root", p.root + "/podman", "--runroot", p.root + "/podman-run", "--cgroup-manager", "cgroupfs",
		"--events-backend", "none"}
	pod := func(args ...string) string {
		out, err := exec.Command(podman, append(slices.Clone(store), args...)...).CombinedOutput()
		if err != nil {
			p.b.Fatalf("podman %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	p.build(d, "linux/amd64", "type=docker,name=serving,dest="+tar)
	pod("load", "-q", "-i", tar)
	id := pod("run", "-d", "--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "serving")
	waitFor(p.b)
	now := time.Now()
	lines := strings.Split(pod("exec", id, "cat", "/stamp"), "\n")
	took := sinceStamp(p.b, now, lines[len(lines)-1])
	pod("rm", "-f", "-t", "0", id)
	pod("rmi", "-f", "serving")
	return took
}
