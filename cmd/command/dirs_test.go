package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/cmd/thin"
)

func TestCloseRoot(t *testing.T) {
	root := t.TempDir()
	for path, mode := range map[string]os.FileMode{"store": 0o777, "volumes/v": 0o755, "users-own": 0o755} {
		if err := os.MkdirAll(filepath.Join(root, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "daemon.log"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(root, "registry")); err != nil {
		t.Fatal(err)
	}
	if err := closeRoot(root); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{".": 0o711, "store": 0o700, "volumes": 0o700, "daemon.log": 0o600,
		"users-own": 0o755, "registry": 0o755} {
		if fi, err := os.Stat(filepath.Join(root, path)); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := thin.At(filepath.Join(shared, "own"), "", "").CheckRoot(); err != nil {
		t.Error(err)
	}
	if err := thin.At(shared, "", "").CheckRoot(); err == nil || !strings.Contains(err.Error(), "--root") {
		t.Errorf("a directory that all share became a data root: %v", err)
	}
}
