package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckCgroups(t *testing.T) {
	for _, c := range []struct {
		controllers []string // of v1, as directories of another file system than cgroup2
		want        string   // of Next; "" is ok
	}{
		{[]string{"cpu", "memory", "pids"}, ""},
		{[]string{"cpu", "pids"}, "add cgroup_enable=memory"},
		{[]string{"memory", "pids"}, "take a kernel"},
		{nil, "mount -t cgroup2"},
	} {
		root := t.TempDir()
		for _, name := range c.controllers {
			if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name, "cgroup.procs"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		f := checkCgroups(root)
		if (c.want == "") != (f.Next == "") || !strings.Contains(f.Next, c.want) {
			t.Errorf("%v: %+v", c.controllers, f)
		}
	}
	if f := checkCgroups("/nonesuch"); f.Next == "" {
		t.Errorf("nothing mounted: %+v", f)
	}
}
