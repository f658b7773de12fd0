package thin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A daemon that is started works in /, so what a command hands it names the same file from there.
func TestPlaceIsAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	p := &Place{root: "data", socket: "g.sock", config: "./g.toml"}
	for what, paths := range map[string][2]string{
		"root": {p.Root(), "data"}, "socket": {p.Socket(), "g.sock"}, "configuration": {p.Config(), "g.toml"},
	} {
		if paths[0] != filepath.Join(here, paths[1]) {
			t.Errorf("%s is %s", what, paths[0])
		}
	}
	if empty := (&Place{}).Config(); empty != "" {
		t.Errorf("no configuration became %s", empty)
	}
	if s := (&Place{}).Socket(); !filepath.IsAbs(s) {
		t.Errorf("socket %s", s)
	}
}

func TestMarksTellRootsApart(t *testing.T) {
	a, b := &Place{root: "/srv/a"}, &Place{root: "/srv/b"}
	if a.Mark() == b.Mark() || (&Place{root: defaultRoot}).Mark() != "" {
		t.Errorf("marks %q, %q, and %q of the default root", a.Mark(), b.Mark(), (&Place{root: defaultRoot}).Mark())
	}
	long := &Place{root: "/" + strings.Repeat("long/", 40)}
	if n := len(long.Socket()); n > 107 {
		t.Errorf("a socket's path of %d bytes", n)
	}
}
