// The tests of this package drive the real program, as `make build` makes it, with real images,
// registries and containers. They are what the README promises.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/gantry-build/gantry/internal/need"
)

// gantry is the program on one data root of its own.
type gantry struct {
	t    testing.TB
	bin  string
	root string
	env  []string

	within []string // what commands are started by, as in a network namespace
}

// program returns the program under test.
func program(t testing.TB) string {
	t.Helper()
	need.Root(t)
	bin, err := filepath.Abs("../../bin/gantry")
	if err != nil {
		t.Fatal(err)
	}
	return need.File(t, bin, "build")
}

// newGantry gives a test a data root of its own, and takes everything away that was made in it.
func newGantry(t testing.TB) *gantry {
	t.Helper()
	root, err := os.MkdirTemp("", "gantry-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	seed(t, root)
	g := &gantry{t: t, bin: program(t), root: root, env: []string{"GANTRY_ROOT=" + root, "GANTRY_IDLE=2m", "BUILDKIT_PROGRESS=plain"}}
	t.Cleanup(g.remove)
	return g
}

// engines is a data root in which gantry has unpacked itself.
var engines struct {
	sync.Once
	root string
}

// seed gives a data root the unpacked program of another one, so that not every test unpacks it.
func seed(t testing.TB, root string) {
	t.Helper()
	engines.Do(func() {
		var err error
		if engines.root, err = os.MkdirTemp("", "gantry-engine-"); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program(t), "--root", engines.root, "emulators", "--help").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	})
	all, err := filepath.Glob(filepath.Join(engines.root, "bin", "gantry-*", "gantry"))
	if err != nil || len(all) != 1 {
		t.Fatalf("unpacked %v, %v", all, err)
	}
	dir := filepath.Join(root, "bin", filepath.Base(filepath.Dir(all[0])))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(all[0], filepath.Join(dir, "gantry")); err != nil {
		t.Fatal(err)
	}
}

func (g *gantry) remove() {
	if ids := strings.Fields(g.output("ps", "-aq")); len(ids) > 0 {
		g.output(append([]string{"rm", "-f"}, ids...)...)
	}
	log, _ := os.ReadFile(filepath.Join(g.root, "daemon.log"))
	if _, stderr, err := g.try("daemon", "stop"); err != nil {
		g.t.Errorf("daemon stop: %v\n%s", err, stderr)
	}
	if g.t.Failed() {
		g.t.Logf("daemon.log:\n%s", tail(untilCrash(string(log)), 40))
	}
	if left := mountsBelow(g.root); len(left) > 0 {
		g.t.Errorf("mounts are left behind: %v", left)
	}
	if left := devicesOf(g.t, g.root); len(left) > 0 {
		g.t.Errorf("network devices or tables are left behind: %v", left)
	}
	if err := os.RemoveAll(g.root); err != nil {
		g.t.Error(err)
	}
}

// markOf is how names of a data root begin.
func markOf(root string) string {
	sum := sha256.Sum256([]byte(root))
	return hex.EncodeToString(sum[:4])
}

// devicesOf lists the bridges and the nftables tables of a data root.
func devicesOf(t testing.TB, root string) (left []string) {
	mark := markOf(root)
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		alias, _ := os.ReadFile(filepath.Join("/sys/class/net", l.Name(), "ifalias"))
		if strings.Contains(l.Name(), mark) || strings.Contains(string(alias), mark) {
			left = append(left, l.Name())
		}
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if strings.Contains(table.Name, mark) {
			left = append(left, "table "+table.Name)
		}
	}
	return left
}

// untilCrash is a daemon's log up to the goroutine in which it has crashed, if it has.
func untilCrash(log string) string {
	for _, begin := range []string{"\npanic: ", "\nfatal error: ", "\nunexpected fault address"} {
		if at := strings.Index(log, begin); at >= 0 {
			lines := strings.SplitAfterN(log[at+1:], "\n", 30)
			return log[:at+1] + strings.Join(lines[:len(lines)-1], "")
		}
	}
	return log
}

func tail(s string, n int) string {
	lines := strings.Split(s, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

func mountsBelow(dir string) (found []string) {
	info, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

func (g *gantry) command(args ...string) *exec.Cmd {
	all := slices.Concat(g.within, []string{g.bin}, args)
	cmd := exec.CommandContext(g.t.Context(), all[0], all[1:]...)
	cmd.Env = append(os.Environ(), g.env...)
	return cmd
}

// try runs a command with a time limit.
func (g *gantry) try(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	all := slices.Concat(g.within, []string{g.bin}, args)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Env = append(os.Environ(), g.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// run fails the test when the command fails, and returns its stdout without the last newline.
func (g *gantry) run(args ...string) string {
	g.t.Helper()
	out, stderr, err := g.try(args...)
	if err != nil {
		g.t.Fatalf("gantry %s: %v\n%s%s", strings.Join(args, " "), err, out, tail(stderr, 60))
	}
	return strings.TrimSpace(out)
}

func (g *gantry) output(args ...string) string {
	out, _, _ := g.try(args...)
	return strings.TrimSpace(out)
}

// fails wants the command to end with a code that is not 0 and a last line on stderr that holds
// every word of want, and returns stderr.
func (g *gantry) fails(want []string, args ...string) string {
	g.t.Helper()
	out, stderr, err := g.try(args...)
	if err == nil {
		g.t.Fatalf("gantry %s: should have failed\n%s%s", strings.Join(args, " "), out, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "gantry: ") {
		g.t.Errorf("gantry %s: the last line does not begin with gantry: \n%s", strings.Join(args, " "), stderr)
	}
	for _, w := range want {
		if !strings.Contains(last, w) {
			g.t.Errorf("gantry %s: %q is not in the message: %s", strings.Join(args, " "), w, last)
		}
	}
	return stderr
}

type daemonStatus struct {
	PID       int      `json:"pid"`
	Socket    string   `json:"socket"`
	Platforms []string `json:"platforms"`
}

func (g *gantry) status() daemonStatus {
	g.t.Helper()
	var s daemonStatus
	if err := json.Unmarshal([]byte(g.run("daemon", "status", "--json")), &s); err != nil {
		g.t.Fatal(err)
	}
	return s
}

// base makes the image debian:bookworm-slim of the given platforms.
func (g *gantry) base(platforms ...string) {
	g.t.Helper()
	for _, p := range platforms {
		arch := strings.Split(p, "/")[1]
		tar := need.File(g.t, "../../.cache/base/bookworm-slim-"+arch+".tar", "bases")
		g.run("import", "--platform", p, tar, "debian:bookworm-slim")
	}
}

// dir writes files into a new directory.
func dir(t testing.TB, files map[string]string) string {
	t.Helper()
	d := t.TempDir()
	for name, text := range files {
		path := filepath.Join(d, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// probes are one small static program for each architecture, for images FROM scratch.
var probes struct {
	sync.Mutex
	dir string
}

// probe returns a build context whose Dockerfile puts the probe of the right architecture into an
// image: `/probe serve ADDR TEXT`, `/probe say WORD...`, `/probe sleep`.
func probe(t testing.TB) string {
	t.Helper()
	probes.Lock()
	defer probes.Unlock()
	if probes.dir != "" {
		return probes.dir
	}
	d, err := os.MkdirTemp("", "gantry-probe-")
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm", "arm64"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(d, arch), "../../testdata/probe")
		cmd.Env = append(os.Environ(), "GOARCH="+arch, "GOARM=7", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building the probe: %v\n%s", err, out)
		}
	}
	text := "FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /probe\nENTRYPOINT [\"/probe\"]\nCMD [\"say\", \"hello\"]\n"
	if err := os.WriteFile(filepath.Join(d, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	probes.dir = d
	return d
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range []string{probes.dir, engines.root} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// freePort returns a TCP port of loopback that no one listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// registry starts gantry's registry on loopback and returns its host:port.
func (g *gantry) registry(tls bool) string {
	g.t.Helper()
	host := "localhost:" + freePort(g.t)
	args := []string{"--addr", host}
	if tls {
		args = append(args, "--tls")
	}
	g.serveRegistry(args...)
	eventually(g.t, "the registry listens", func() error {
		c, err := net.DialTimeout("tcp", host, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	return host
}

// serveRegistry starts a registry, which ends with the test.
func (g *gantry) serveRegistry(args ...string) {
	g.t.Helper()
	cmd := g.command(append([]string{"registry", "serve"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
}

// eventually waits up to a minute for f to return nil.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	within(t, time.Minute, what, f)
}

// within is eventually, for those who need longer.
func within(t testing.TB, d time.Duration, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, fmt.Errorf("not after %s: %w", d, err))
}

// armELF is the magic and the mask of ARM's programs in a registration (Linux, admin-guide/binfmt-misc.rst).
const armELF = `\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00:` +
	`\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
