package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// A client in another mount namespace may see other files in the directory that the daemon sees too.
func TestContextInAnotherMountNamespace(t *testing.T) {
	unshare := need.Tool(t, "unshare")
	g := newGantry(t)
	out := t.TempDir()
	ctx := dir(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY sub/f /f\n", "sub/f": "the daemon's"})
	other := dir(t, map[string]string{"f": "the client's"})
	g.run("build", "--output", out, ctx)
	g.run("build", "--output", out, ctx)
	cmd := exec.Command(unshare, "--mount", "sh", "-c", `mount --bind "$1" "$2/sub" && exec "$0" build --output "$3" "$2"`,
		g.bin, other, ctx, out)
	cmd.Env = append(os.Environ(), g.env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if got, err := os.ReadFile(filepath.Join(out, "f")); err != nil || string(got) != "the client's" {
		t.Errorf("built from %q, %v", got, err)
	}
	g.run("build", "--output", out, ctx)
	if got, err := os.ReadFile(filepath.Join(out, "f")); err != nil || string(got) != "the daemon's" {
		t.Errorf("afterwards built from %q, %v", got, err)
	}
}
