package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// inside runs a command in another root directory.
func inside(t *testing.T, root string, args ...string) string {
	t.Helper()
	cmd := exec.Command("chroot", append([]string{root}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// The Debian package goes onto a fresh Debian and leaves it again, has pages and completions, and the daemon is enabled.
func TestPackage(t *testing.T) {
	need.Root(t)
	need.Tool(t, "dpkg-deb")
	base := need.File(t, "../../.cache/base/bookworm-slim-"+runtime.GOARCH+".tar", "bases")
	pages, out, root := t.TempDir(), t.TempDir(), t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		text, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		return strings.TrimSpace(string(text))
	}
	run("go", "run", "../man", pages)
	deb := run("../../internal/packages/build.sh", program(t), runtime.GOARCH, "v1.2.3-4-gabcdef", pages, out)
	if want := filepath.Join(out, "gantry_1.2.3+4+gabcdef_"+runtime.GOARCH+".deb"); deb != want {
		t.Fatalf("the package is %s, want %s", deb, want)
	}
	again := t.TempDir()
	run("cmp", deb, run("../../internal/packages/build.sh", program(t), runtime.GOARCH, "v1.2.3-4-gabcdef", pages, again))
	run("tar", "-xf", base, "-C", root)
	run("cp", deb, root+"/gantry.deb")

	inside(t, root, "dpkg", "-i", "/gantry.deb")
	if out := inside(t, root, "dpkg-query", "-W", "-f", "${Status} ${Version}", "gantry"); out != "install ok installed 1.2.3+4+gabcdef" {
		t.Errorf("dpkg says %s", out)
	}
	if out := inside(t, root, "gantry", "--version"); !strings.HasPrefix(out, "gantry ") {
		t.Errorf("the program says %s", out)
	}
	listed := run("dpkg-deb", "-c", deb) // a slim Debian leaves pages out
	for _, page := range []string{"gantry.1.gz", "gantry-stack-deploy.1.gz", "gantry-cluster-backup.1.gz"} {
		if !strings.Contains(listed, "/usr/share/man/man1/"+page) {
			t.Errorf("the package has no page %s", page)
		}
	}
	const enabled = "/etc/systemd/system/multi-user.target.wants/gantry.service"
	for _, path := range []string{
		enabled, "/usr/share/bash-completion/completions/gantry", "/usr/share/zsh/vendor-completions/_gantry",
		"/usr/share/fish/vendor_completions.d/gantry.fish", "/usr/share/doc/gantry/copyright",
	} {
		if _, err := os.Lstat(root + path); err != nil {
			t.Error(err)
		}
	}
	inside(t, root, "dpkg", "-i", "/gantry.deb") // again, as an upgrade does
	inside(t, root, "dpkg", "--remove", "gantry")
	if _, err := os.Lstat(root + "/usr/bin/gantry"); err == nil {
		t.Error("the program stays when the package goes")
	}
	inside(t, root, "dpkg", "--purge", "gantry")
	if _, err := os.Lstat(root + enabled); err == nil {
		t.Error("the daemon stays enabled when the package is purged")
	}
}

// systemd is told when the daemon answers, and not before.
func TestDaemonTellsSystemd(t *testing.T) {
	g := newGantry(t)
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g.env = append(g.env, "NOTIFY_SOCKET="+socket)
	cmd := g.command("daemon")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("systemd is told %q, %v", b[:n], err)
	}
	g.run("daemon", "status")
}
