package lookup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// TestLookupUser: the files are the container's, also when its links point to the host's.
func TestLookupUser(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"real/passwd": "root:x:0:0::/root:/bin/sh\nann:x:1001:1002::/home/ann:/bin/sh\n",
		"real/group":  "root:x:0:\nstaff:x:50:ann\nextra:x:60:\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, "real"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/real", filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	u, err := User(root, "ann", []string{"extra", "77"})
	if err != nil || u.UID != 1001 || u.GID != 1002 || u.Home != "/home/ann" || len(u.Groups) != 4 {
		t.Errorf("%+v %v", u, err)
	}
	if u, err = User(root, "5:6", nil); err != nil || u.UID != 5 || u.GID != 6 || u.Home != "/" {
		t.Errorf("%+v %v", u, err)
	}
	if _, err = User(root, "nobody-here", nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if u, err = User(t.TempDir(), "", nil); err != nil || u.UID != 0 {
		t.Errorf("no files: %+v %v", u, err)
	}
}
