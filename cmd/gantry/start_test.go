package main

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// initialiser is one package's work before main.
type initialiser struct {
	pkg   string
	ms    float64
	bytes int
}

// traced is a line of GODEBUG=inittrace=1 (package runtime).
var traced = regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock, (\d+) bytes, \d+ allocs$`)

// initialisers are those of a program's --version, the heaviest first.
func initialisers(t *testing.T, program string) (all []initialiser, bytes int) {
	t.Helper()
	cmd := exec.Command(program, "--version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s --version: %v\n%s", program, err, out)
	}
	for _, m := range traced.FindAllStringSubmatch(string(out), -1) {
		ms, _ := strconv.ParseFloat(m[2], 64)
		n, _ := strconv.Atoi(m[3])
		all = append(all, initialiser{m[1], ms, n})
		bytes += n
	}
	if len(all) == 0 {
		t.Fatalf("%s traces no initialisers: %s", program, out)
	}
	slices.SortFunc(all, func(a, b initialiser) int { return b.bytes - a.bytes })
	return all, bytes
}

// Commands that docker has too start lighter than docker. What initialisers allocate stands for their time,
// which a busy machine stretches.
func TestStartIsLight(t *testing.T) {
	docker := need.File(t, "../../.cache/peers/docker", "peers")
	all, ours := initialisers(t, program(t))
	_, theirs := initialisers(t, docker)
	t.Logf("initialisers allocate %d bytes, docker's %d (%.2f times); the heaviest five:", ours, theirs, float64(ours)/float64(theirs))
	for _, i := range all[:5] {
		t.Logf("%9d bytes %6.2f ms  %s", i.bytes, i.ms, i.pkg)
	}
	if float64(ours) > 0.7*float64(theirs) {
		t.Errorf("that is more than 0.7 of docker's")
	}
}

// The engine is unpacked once, is the same process as the command, and runs from memory where nothing can
// be written.
func TestEngine(t *testing.T) {
	root := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("sh", append([]string{"-c", args[0], program(t), root}, args[1:]...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if out := run(`"$0" --root "$1" version --help && ls -A "$1"`); strings.Contains(out, "bin") {
		t.Errorf("a verb of docker's has unpacked the engine:\n%s", out)
	}
	const pid = `sh -c 'echo $$; exec "$0" --root "$1" emulators exec -- sh -c "echo \$PPID"' "$0" "$1"`
	run(pid)
	before := run(`stat -c %i "$1"/bin/gantry-*/gantry`)
	if lines := strings.Fields(run(pid)); len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("the command is process %s, the engine %s", lines[0], lines[1:])
	}
	if after := run(`stat -c %i "$1"/bin/gantry-*/gantry`); after != before {
		t.Errorf("unpacked twice: %s, %s", before, after)
	}
	out := run(`unshare --mount sh -c 'mount -t tmpfs -o ro none "$1" && "$0" --root "$1" --help && ls -A "$1"' "$0" "$1"`)
	if !strings.Contains(out, "Build and ship:") || strings.HasSuffix(out, "bin") {
		t.Errorf("with a read-only data root:\n%s", out)
	}
}

// What another version has unpacked goes when a daemon of this one starts.
func TestOldEnginesGo(t *testing.T) {
	g := newGantry(t)
	old := g.root + "/bin/gantry-0123456789ab"
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	g.run("ps")
	if _, err := os.Stat(old); err == nil {
		t.Errorf("%s is still there", old)
	}
	g.run("build", "--help")
}
