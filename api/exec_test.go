package api

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// execOnce follows docker exec: create, attach (which starts), copy, inspect.
func execOnce(t *testing.T, c *client.Client, id string, o client.ExecCreateOptions, stdin string) result {
	t.Helper()
	o.AttachStdout, o.AttachStderr, o.AttachStdin = true, true, stdin != ""
	made, err := c.ExecCreate(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	at, err := c.ExecAttach(t.Context(), made.ID, client.ExecAttachOptions{TTY: o.TTY})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	_, _ = io.WriteString(at.Conn, stdin)
	_ = at.CloseWrite()
	var out, errOut bytes.Buffer
	if o.TTY {
		_, err = io.Copy(&out, at.Reader)
	} else {
		_, err = stdcopy.StdCopy(&out, &errOut, at.Reader)
	}
	if err != nil {
		t.Error(err)
	}
	in, err := c.ExecInspect(t.Context(), made.ID, client.ExecInspectOptions{})
	if err != nil || in.Running {
		t.Errorf("%+v %v", in, err)
	}
	return result{out.String(), errOut.String(), in.ExitCode}
}

func TestExec(t *testing.T) {
	_, c := run(t)
	id := start(t, c, "box", container.HostConfig{}, "tick")
	guest := func(args ...string) client.ExecCreateOptions {
		return client.ExecCreateOptions{Cmd: append([]string{"/guest"}, args...)}
	}
	if r := execOnce(t, c, id, guest("both"), ""); r != (result{"to stdout\n", "to stderr\n", 0}) {
		t.Errorf("%+v", r)
	}
	if r := execOnce(t, c, id, guest("exit", "9"), ""); r.code != 9 {
		t.Errorf("%+v", r)
	}
	if r := execOnce(t, c, id, guest("cat"), "typed"); r.out != "typed" || r.err != "5 bytes\n" {
		t.Errorf("%+v", r)
	}
	o := guest("id")
	o.User = "ann"
	if r := execOnce(t, c, id, o, ""); r.out != "1001 1002 /home/ann\n" {
		t.Errorf("%+v", r)
	}
	o = guest("both")
	o.TTY = true
	if r := execOnce(t, c, id, o, ""); r.out != "to stdout\r\nto stderr\r\n" {
		t.Errorf("%+v", r)
	}
	for cmd, want := range map[string]result{
		"/nosuch": {code: 127, out: "no such file"}, "nosuch": {code: 127, out: "executable file not found"},
		"/noexec": {code: 126, out: "permission denied"},
	} {
		r := execOnce(t, c, id, client.ExecCreateOptions{Cmd: []string{cmd}}, "")
		if r.code != want.code || !strings.Contains(r.out, want.out) {
			t.Errorf("%s: %+v", cmd, r)
		}
	}
	if _, err := c.ContainerKill(t.Context(), id, client.ContainerKillOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecCreate(t.Context(), id, guest("both")); !errdefs.IsConflict(err) {
		t.Error("exec in a dead container:", err)
	}
}

func TestAttachToRunning(t *testing.T) {
	_, c := run(t)
	id := start(t, c, "", container.HostConfig{}, "tick")
	lines(t, c, id, 3, time.Time{})
	var clients []client.ContainerAttachResult
	for range 2 {
		at, err := c.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Logs: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		clients = append(clients, at)
	}
	if _, err := c.ContainerStop(t.Context(), id, client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, at := range clients {
		var out bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, io.Discard, at.Reader); err != nil {
			t.Error(err)
		}
		got := strings.Split(strings.TrimSpace(out.String()), "\n")
		for i, line := range got[:len(got)-1] {
			if line != "tick "+strconv.Itoa(i) {
				t.Fatalf("line %d is %q: replay and stream do not join", i, line)
			}
		}
		if got[len(got)-1] != "bye" {
			t.Errorf("ends with %q", got[len(got)-1])
		}
	}
}

// A process that leaves a child behind with its output has ended when it ends, and all that it printed is there.
func TestExecLeavesAChild(t *testing.T) {
	_, c := run(t)
	id := start(t, c, "box", container.HostConfig{}, "tick")
	for _, tty := range []bool{false, true} {
		begin := time.Now()
		r := execOnce(t, c, id, client.ExecCreateOptions{Cmd: []string{"/guest", "leave"}, TTY: tty}, "")
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("terminal %v: it took %v", tty, took)
		}
		if n := strings.Count(r.out, "x"); n != 300_000 || r.code != 3 {
			t.Errorf("terminal %v: %d of its characters, exit code %d", tty, n, r.code)
		}
	}
}
