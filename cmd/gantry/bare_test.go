package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bareScript makes a root file system that holds nothing but the program, and the file systems that
// a kernel offers, and works in it. It runs in a mount namespace of its own: what it mounts is seen by no one
// who removes directories, and goes with it.
const bareScript = `
set -eu
root=$1 bin=$2 context=$3
chroot=$(PATH=$PATH:/usr/sbin command -v chroot)
mount -t tmpfs -o size=600m bare "$root"
g() { env -i BUILDKIT_PROGRESS=plain GANTRY_ROOT=/data "$chroot" "$root" /gantry "$@"; }
trap 'g daemon stop || true' EXIT
mkdir "$root/proc" "$root/sys" "$root/dev" "$root/context"
cp "$bin" "$root/gantry"
cp "$context"/* "$root/context"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
g build -q --platform linux/amd64,linux/arm/v7 -t probe /context
g run --rm probe arch
g run --rm --platform linux/arm/v7 probe arch
`

// One file on a machine on which nothing is installed builds and runs, for both platforms.
func TestBareMachine(t *testing.T) {
	bin := program(t)
	context := t.TempDir()
	files, err := filepath.Glob(probe(t) + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		dt, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(f) == "Dockerfile" {
			dt = append(dt, "RUN [\"/probe\", \"say\", \"built\"]\n"...)
		}
		if err := os.WriteFile(filepath.Join(context, filepath.Base(f)), dt, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", bareScript, "bare",
		t.TempDir(), bin, context)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if n := len(lines); n != 3 || !strings.HasPrefix(lines[0], "sha256:") || lines[1] != "amd64" || lines[2] != "arm" {
		t.Errorf("%s", out)
	}
}
