package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Another user of the machine finds no file below the data root, whatever the umask of the one who
// started the daemon was, and also not where an older version had made it.
func TestOtherUsersAreKeptOut(t *testing.T) {
	g := newGantry(t)
	for _, open := range []string{"store", "volumes", "certs.d"} {
		if err := os.MkdirAll(filepath.Join(g.root, open, "from-before"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(g.root, open), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	old := syscall.Umask(0)
	g.run("build", "-t", "probe", probe(t))
	syscall.Umask(old)
	g.run("run", "-v", "data:/data", "probe", "say", "hello")
	host := g.registry(true)
	g.run("tag", "probe", host+"/probe")
	g.run("push", host+"/probe")

	var all []string
	err := filepath.WalkDir(g.root, func(path string, e fs.DirEntry, err error) error {
		if path != g.root && e.Type()&fs.ModeSymlink == 0 { // a link's target is checked where it is
			all = append(all, path)
		}
		return err
	})
	if err != nil || len(all) < 50 {
		t.Fatalf("%d files, %v", len(all), err)
	}
	// nobody walks and tries each of them.
	cmd := exec.Command("sh", "-c",
		`ls "$0"/. 2>/dev/null && echo "reads $0"; while read -r f; do for a in r w x; do test -$a "$f" && echo "$a $f"; done; done; true`,
		g.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stdin = strings.NewReader(strings.Join(all, "\n") + "\n")
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v: nobody may\n%s", err, tail(string(out), 40))
	}
}
