package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Bad input ends with a code that is not 0 and one clear message, and the next command works.
func TestBadInput(t *testing.T) {
	g := newGantry(t)
	ctx := probe(t)
	for name, c := range map[string]struct {
		file string
		args []string
		want []string
	}{
		"unknown instruction": {file: "FROM scratch\n\nFRUN x\n", want: []string{"Dockerfile:3", "unknown instruction: FRUN", "RUN"}},
		"missing source":      {file: "FROM scratch\nCOPY nothing /\n", want: []string{"Dockerfile:2", "/nothing", "not found"}},
		"missing base":        {file: "FROM localhost:1/none:1\n", want: []string{"Dockerfile:1", "localhost:1", "nothing listens there"}},
		"failing step":        {file: "FROM probe\nRUN [\"/probe\", \"exit\", \"3\"]\n", want: []string{"Dockerfile:2", "exit code: 3"}},
		"bad platform": {file: "FROM scratch\n", args: []string{"--platform", "linux/amd46"},
			want: []string{"linux/amd46", "amd64"}},
		"no platform": {file: "FROM scratch\n", args: []string{"--platform", "a/b/c/d"}, want: []string{"a/b/c/d", "linux/arm/v7"}},
		"no emulator": {file: "FROM --platform=$BUILDPLATFORM probe AS a\nFROM scratch\nCOPY --from=a /probe /\nRUN [\"/probe\"]\n",
			args: []string{"--platform", "linux/s390x"}, want: []string{"s390x", "emulator"}},
		"push without name": {file: "FROM scratch\nCOPY f /\n", args: []string{"--push"}, want: []string{"--tag"}},
		"registry down": {file: "FROM scratch\nCOPY f /\n",
			args: []string{"-t", "localhost:1/x", "--push"}, want: []string{"localhost:1", "nothing listens there"}},
		"no Dockerfile": {file: "", args: []string{"-f", "none"}, want: []string{"none", "--file"}},
		"bad name":      {file: "FROM scratch\n", args: []string{"-t", "UPPER"}, want: []string{"UPPER", "lowercase"}},
		"bad progress":  {file: "FROM scratch\n", args: []string{"--progress", "loud"}, want: []string{"loud", "plain"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := *g
			g.t = t
			g.run("build", "-q", "-t", "probe", ctx)
			d := dir(t, map[string]string{"Dockerfile": c.file, "f": "x"})
			g.fails(c.want, append(append([]string{"build"}, c.args...), d)...)
			g.run("build", "-q", ctx)
		})
	}
	g.fails([]string{"nowhere"}, "build", "nowhere")
	g.fails([]string{"one context"}, "build")
	g.fails([]string{"unknown command", "build"}, "biuld")
	g.fails([]string{"no such file"}, "import", "nowhere.tar", "x")
	g.fails([]string{"tar archive"}, "import", filepath.Join(ctx, "Dockerfile"), "x")
	g.fails([]string{"localhost:1", "nothing listens there"}, "pull", "localhost:1/x")
	if out := g.run("images", "-q", "x"); out != "" {
		t.Errorf("a failed import left %s", out)
	}
}

// A tar that ends early leaves nothing behind.
func TestCutImport(t *testing.T) {
	g := newGantry(t)
	tar := filepath.Join(t.TempDir(), "cut.tar")
	block := make([]byte, 700)
	copy(block, "file")
	if err := os.WriteFile(tar, block, 0o644); err != nil {
		t.Fatal(err)
	}
	g.fails([]string{"tar archive"}, "import", tar, "cut")
	if out := g.run("images", "-q"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

// A daemon that can't start tells the CLI why.
func TestDaemonThatCannotStart(t *testing.T) {
	g := newGantry(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	bad := *g
	bad.env = append(bad.env, "GANTRY_ROOT="+file+"/below")
	bad.fails([]string{file, "not a directory"}, "ps")
	bad = *g
	bad.env = append(bad.env, "GANTRY_CONFIG="+file+"x")
	bad.fails([]string{file + "x", "no such file"}, "ps")
	if left, _ := filepath.Glob("/run/gantry-" + markOf(g.root)); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	g.run("ps")
}

// A full disk fails the build with a message that says so, and not the daemon.
func TestFullDisk(t *testing.T) {
	g := newGantry(t)
	if err := unix.Mount("tmpfs", g.root, "tmpfs", 0, "size=220m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.output("daemon", "stop")
		if err := unix.Unmount(g.root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ctx := probe(t)
	g.run("build", "-q", "-t", "probe", ctx)
	big := dir(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY big /\n", "big": strings.Repeat("x", 200<<20)})
	g.fails([]string{"no space left on device"}, "build", "-t", "big", big)
	g.run("build", "-q", "-t", "after", ctx)
	if out := g.run("run", "--rm", "after", "say", "works"); out != "works" {
		t.Errorf("afterwards: %q", out)
	}
}

// An auto-started daemon ends when there is nothing to do, and not before.
func TestIdleDaemonEnds(t *testing.T) {
	g := newGantry(t)
	g.env = append(g.env, "GANTRY_IDLE=500ms")
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("run", "-d", "--name", "busy", "probe", "sleep")
	pid := g.status().PID
	time.Sleep(1500 * time.Millisecond)
	if g.status().PID != pid {
		t.Fatal("the daemon left a running container alone")
	}
	g.run("rm", "-f", "busy")
	eventually(t, "the daemon ends", func() error {
		if _, err := os.Stat("/proc/" + itoa(pid)); err == nil {
			return os.ErrExist
		}
		return nil
	})
}
