package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// A second data root stands for another machine: it refuses the registry's certificate, says what to
// type, and trusts it after one command with the right fingerprint.
func TestTrustOnAnotherMachine(t *testing.T) {
	owner, other := newGantry(t), newGantry(t)
	host := owner.registry(true)
	other.run("build", "-q", "-t", host+"/probe", probe(t))
	other.fails([]string{host, "gantry registry trust " + host}, "push", host+"/probe")
	other.fails([]string{"sha256:"}, "registry", "trust", host)
	other.fails([]string{"nothing was changed"}, "registry", "trust", host, "--fingerprint", "sha256:00")
	msg := other.fails([]string{"--fingerprint"}, "registry", "trust", host)
	fields := strings.Fields(msg)
	other.run("registry", "trust", host, "--fingerprint", fields[len(fields)-1])
	other.run("push", host+"/probe")
	owner.run("pull", "-q", host+"/probe")
}

// httpScript has a network of its own, with an address that is not loopback's.
const httpScript = `
set -eu
gantry=$1 context=$2
ip link set lo up
ip addr add 192.0.2.1/32 dev lo
"$gantry" registry serve --open --addr 192.0.2.1:5000 2>/dev/null &
registry=$!
trap '"$gantry" daemon stop; kill $registry; wait $registry || true' EXIT
until curl -fs http://192.0.2.1:5000/v2/ >/dev/null; do kill -0 $registry; sleep 0.1; done
"$gantry" build -q -t 192.0.2.1:5000/probe --push "$context" && exit 3
"$gantry" build -q -t 192.0.2.1:5000/probe --push --registry-http 192.0.2.1:5000 "$context"
"$gantry" rmi -f 192.0.2.1:5000/probe >/dev/null
"$gantry" daemon stop
"$gantry" pull -q 192.0.2.1:5000/probe
`

// Elsewhere than on loopback plain HTTP is refused until --registry-http is said once.
func TestPlainHTTPIsAskedFor(t *testing.T) {
	g := newGantry(t)
	need.Tool(t, "unshare")
	cmd := exec.Command("unshare", "--net", "sh", "-c", httpScript, "http", g.bin, probe(t))
	cmd.Env = append(os.Environ(), g.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--registry-http 192.0.2.1:5000") || !strings.Contains(string(out), "192.0.2.1:5000/probe:latest") {
		t.Errorf("%s", out)
	}
}

// A warm daemon is ready in under half a second, and progress on a terminal is live.
func TestWarmStartAndTerminal(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	best := time.Hour
	for range 3 {
		g.run("daemon", "stop")
		best = min(best, timed(func() { g.run("ps") }))
	}
	if best > 500*time.Millisecond {
		t.Errorf("the first command on a warm root took %v", best)
	}
	script := exec.Command(need.Tool(t, "script"), "-qec", g.bin+" build --progress tty --no-cache "+probe(t),
		filepath.Join(t.TempDir(), "typescript"))
	script.Env = append(os.Environ(), g.env...)
	out, err := script.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\x1b[") || !strings.Contains(string(out), "FINISHED") {
		t.Errorf("%v: %q", err, out)
	}
}
