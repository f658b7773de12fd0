package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Containers do not belong to the daemon's process: they survive its kill -9, and the next one
// knows them, their ports, their logs and how those ended that died in between.
func TestContainersSurviveTheDaemon(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "--platform", both, "-t", "probe", probe(t))
	port := freePort(t)
	stays := g.run("run", "-d", "--name", "stays", "--platform", "linux/arm/v7", "-p", port+":80", "probe", "serve", ":80", "still here")
	ends := g.run("run", "-d", "--name", "ends", "probe", "sleep")
	if out := get(t, "http://127.0.0.1:"+port); out != "still here arm\n" {
		t.Fatalf("before: %q", out)
	}
	pid := g.status().PID
	kill(t, pid)
	if out := get(t, "http://127.0.0.1:"+port); out != "still here arm\n" {
		t.Fatalf("without a daemon: %q", out)
	}
	kill(t, mainProcess(t, ends))
	eventually(t, "the new daemon knows", func() error {
		want := "ends exited 137\nstays running 0"
		out := g.run("inspect", "--format", "{{.Name}} {{.State.Status}} {{.State.ExitCode}}", "ends", "stays")
		if strings.ReplaceAll(out, "/", "") != want {
			return errors.New(out)
		}
		return nil
	})
	if g.status().PID == pid {
		t.Fatal("the daemon was not killed")
	}
	if out := get(t, "http://127.0.0.1:"+port); out != "still here arm\n" {
		t.Errorf("after: %q", out)
	}
	if out := g.run("logs", "stays"); out != "serving" {
		t.Errorf("logs: %q", out)
	}
	if out := g.run("exec", stays, "/probe", "arch"); out != "arm" {
		t.Errorf("exec in the emulated container: %q", out)
	}
	g.run("stop", "stays")
	g.run("rm", "stays", "ends")
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process ends", func() error {
		stat, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return nil
		}
		return errors.New("it is still there")
	})
}

// mainProcess finds the container's PID 1 from the host, without asking a daemon.
func mainProcess(t *testing.T, id string) int {
	t.Helper()
	out, err := exec.Command("sh", "-c", "grep -l "+id+" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(out)) {
		comm, _ := os.ReadFile("/proc/" + f + "/comm")
		if strings.TrimSpace(string(comm)) == "probe" {
			return atoi(f)
		}
	}
	t.Fatalf("no process of container %s among %s", id, out)
	return 0
}

func TestRun(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	g.run("build", "-q", "--platform", both+",linux/arm64", "-t", "probe", probe(t))

	for platform, want := range map[string]string{"linux/amd64": "amd64", "linux/arm/v7": "arm", "linux/arm64": "arm64"} {
		if out := g.run("run", "--rm", "--platform", platform, "probe", "arch"); out != want {
			t.Errorf("%s: %q", platform, out)
		}
	}
	t.Run("exit codes", func(t *testing.T) {
		for want, args := range map[int][]string{
			7:   {"run", "--rm", "probe", "exit", "7"},
			127: {"run", "--rm", "--entrypoint", "/none", "probe"},
			125: {"run", "--rm", "--no-such-flag", "probe"},
		} {
			_, stderr, err := g.try(args...)
			var code *exec.ExitError
			if !errors.As(err, &code) || code.ExitCode() != want {
				t.Errorf("%v: %v, want exit code %d\n%s", args, err, want, stderr)
			}
		}
	})
	t.Run("stdin", func(t *testing.T) {
		cmd := g.command("run", "--rm", "-i", "probe", "cat")
		cmd.Stdin = strings.NewReader("through\n")
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "through\n" {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("environment and volume", func(t *testing.T) {
		d := dir(t, map[string]string{"f": "from the host"})
		out := g.run("run", "--rm", "-e", "A=b", "-v", d+":/v:ro", "debian:bookworm-slim", "sh", "-c",
			"echo $A; cat /v/f; touch /v/g 2>/dev/null || echo read-only")
		if out != "b\nfrom the hostread-only" {
			t.Errorf("%q", out)
		}
	})
	t.Run("tty", func(t *testing.T) {
		script := exec.Command("script", "-qec", g.bin+" run --rm -it debian:bookworm-slim sh -c 'tty; stty size'", "/dev/null")
		script.Env = append(os.Environ(), g.env...)
		script.Stdin = strings.NewReader("")
		out, err := script.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "/dev/pts/") {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("names, logs, stop, rm", func(t *testing.T) { lifeOfAContainer(t, *g) })
	t.Run("network", func(t *testing.T) {
		port := freePort(t)
		g.run("run", "-d", "--name", "net", "-p", "127.0.0.1:"+port+":80", "probe", "serve", ":80", "by port")
		if out := get(t, "http://127.0.0.1:"+port); out != "by port amd64\n" {
			t.Errorf("%q", out)
		}
		if _, stderr, err := g.try("run", "-d", "-p", port+":80", "probe", "sleep"); err == nil ||
			!strings.Contains(stderr, "port is already allocated") {
			t.Errorf("the port twice: %v %s", err, stderr)
		}
		g.run("rm", "-f", "net")
	})
}

func lifeOfAContainer(t *testing.T, g gantry) {
	g.t = t
	id := g.run("run", "-d", "--name", "one", "probe", "serve", ":80", "x")
	if _, stderr, err := g.try("run", "-d", "--name", "one", "probe", "sleep"); err == nil ||
		!strings.Contains(stderr, "is already in use by container") {
		t.Errorf("a second container named one: %v %s", err, stderr)
	}
	eventually(t, "it logs", func() error {
		if out := g.run("logs", "one"); out != "serving" {
			return errors.New(out)
		}
		return nil
	})
	if _, stderr, err := g.try("rm", "one"); err == nil {
		t.Errorf("rm of a running container: %s", stderr)
	}
	if _, stderr, err := g.try("rmi", "probe"); err == nil {
		t.Errorf("rmi of a used image: %s", stderr)
	}
	g.run("stop", "one")
	if out := g.run("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Status}}"); !strings.HasPrefix(out, id+" Exited (0)") {
		t.Errorf("ps -a: %s", out)
	}
	g.run("rm", "one")
}

// An emulated container is as good as a native one: root may ping, use low ports, change owners.
func TestEmulatedContainer(t *testing.T) {
	g := newGantry(t)
	g.base("linux/arm/v7")
	out := g.run("run", "--rm", "--platform", "linux/arm/v7", "debian:bookworm-slim", "sh", "-c",
		"uname -m; dpkg --print-architecture; id -u; touch /f && chown 12:34 /f && stat -c %u:%g /f; su -s /bin/sh nobody -c 'id -un'; "+
			"cat /proc/sys/net/ipv4/ip_forward >/dev/null && echo sys")
	if want := "armv7l\narmhf\n0\n12:34\nnobody\nsys"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

// A daemon that stops waits for no client that has an attach, an exec or a session open.
func TestStopWithOpenStreams(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("run", "-d", "--name", "cc", "probe", "sleep")
	attach, execed := g.command("attach", "cc"), g.command("exec", "-i", "cc", "/probe", "sleep")
	for _, cmd := range []*exec.Cmd{attach, execed} {
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	dialog, err := net.Dial("unix", g.status().Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer dialog.Close()
	if _, err := io.WriteString(dialog, "POST /session HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+
		"h2c\r\nX-Docker-Expose-Session-Uuid: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("unix", g.status().Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	eventually(t, "both commands are in the container", func() error {
		if n := strings.Count(g.run("top", "cc"), "/probe sleep"); n != 2 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
	g.run("daemon", "stop")
	if log, err := os.ReadFile(filepath.Join(g.root, "daemon.log")); err != nil ||
		strings.Contains(string(log), "handlers that have not ended") {
		t.Errorf("the stop waited: %v\n%s", err, tail(string(log), 5))
	}
	_, _ = attach.Process.Wait()
	_, _ = execed.Process.Wait()
}

// What was stopped by hand stays so when the daemon ends from idleness and comes back, and starts, as
// with Docker, when a daemon is started anew.
func TestRestartAlwaysAfterIdle(t *testing.T) {
	g := newGantry(t)
	g.env = append(g.env, "GANTRY_IDLE=300ms")
	g.run("build", "-q", "-t", "probe", probe(t))
	g.run("run", "-d", "--restart", "always", "--name", "cc", "probe", "sleep")
	g.run("stop", "-t", "0", "cc")
	eventually(t, "the daemon ends", func() error { // not asked, which would be use
		_, err := os.Stat(filepath.Join(g.root, "idle"))
		return err
	})
	running := func() string { return g.run("inspect", "--format", "{{.State.Running}}", "cc") }
	if running() != "false" {
		t.Error("a container that was stopped by hand runs after an idle exit")
	}
	kill(t, g.status().PID)
	eventually(t, "a new daemon starts it", func() error {
		if running() != "true" {
			return errors.New("it does not run")
		}
		return nil
	})
}

// A container in the host's process namespace sees the host's processes, and none of its binfmt_misc.
func TestHostPID(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	for _, p := range []string{"linux/amd64", "linux/arm/v7"} {
		out := g.run("run", "--rm", "--pid", "host", "--platform", p, "debian:bookworm-slim", "sh", "-c",
			"test -d /proc/"+itoa(os.Getpid())+" && echo host; ls /proc/sys/fs/binfmt_misc; echo :x:M::y::/bin/true: 2>/dev/null "+
				">/proc/sys/fs/binfmt_misc/register || echo refused")
		if out != "host\nrefused" {
			t.Errorf("%s: %q", p, out)
		}
	}
}
