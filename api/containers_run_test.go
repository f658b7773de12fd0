package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// result is what docker run would show.
type result struct {
	out, err string
	code     int
}

// runOnce follows docker run step by step: create, attach, wait, start, copy (docker/cli
// command/container/run.go).
func runOnce(t *testing.T, c *client.Client, cfg container.Config, host container.HostConfig, stdin io.Reader) (string, result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg.Image = "guest"
	if stdin != nil {
		cfg.OpenStdin, cfg.StdinOnce, cfg.AttachStdin = true, true, true
	}
	made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &cfg, HostConfig: &host})
	if err != nil {
		return "", result{}, err
	}
	at, err := c.ContainerAttach(ctx, made.ID, client.ContainerAttachOptions{Stream: true, Stdin: stdin != nil, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	cond := container.WaitConditionNextExit
	if host.AutoRemove {
		cond = container.WaitConditionRemoved
	}
	wait := c.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: cond})
	if _, err := c.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		return made.ID, result{}, err
	}
	go func() {
		if stdin != nil {
			_, _ = io.Copy(at.Conn, stdin)
		}
		_ = at.CloseWrite()
	}()
	var out, errOut bytes.Buffer
	if cfg.Tty {
		_, err = io.Copy(&out, at.Reader)
	} else {
		_, err = stdcopy.StdCopy(&out, &errOut, at.Reader)
	}
	if err != nil {
		t.Error("reading the streams:", err)
	}
	select {
	case r := <-wait.Result:
		return made.ID, result{out.String(), errOut.String(), int(r.StatusCode)}, nil
	case err := <-wait.Error:
		return made.ID, result{}, err
	}
}

func mustRun(t *testing.T, c *client.Client, cfg container.Config, host container.HostConfig, stdin io.Reader) (string, result) {
	t.Helper()
	id, r, err := runOnce(t, c, cfg, host, stdin)
	if err != nil {
		t.Fatal(err)
	}
	return id, r
}

func TestRun(t *testing.T) {
	d, c := run(t)
	t.Run("streams are apart", func(t *testing.T) {
		_, r := mustRun(t, c, container.Config{Cmd: []string{"both"}}, container.HostConfig{}, nil)
		if r != (result{"to stdout\n", "to stderr\n", 0}) {
			t.Errorf("%+v", r)
		}
	})
	t.Run("image's command", func(t *testing.T) {
		if _, r := mustRun(t, c, container.Config{}, container.HostConfig{}, nil); r.out != "default\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("exit code and rm", func(t *testing.T) {
		id, r := mustRun(t, c, container.Config{Cmd: []string{"exit", "7"}}, container.HostConfig{AutoRemove: true}, nil)
		if r.code != 7 {
			t.Errorf("%+v", r)
		}
		if _, err := d.runner.Get(id); !errdefs.IsNotFound(err) {
			t.Errorf("not removed: %v", err)
		}
	})
	t.Run("piped input ends, output goes on", func(t *testing.T) {
		text := strings.Repeat("0123456789abcde\n", 1<<16)
		_, r := mustRun(t, c, container.Config{Cmd: []string{"cat"}}, container.HostConfig{}, strings.NewReader(text))
		if r.out != text || r.err != fmt.Sprintf("%d bytes\n", len(text)) {
			t.Errorf("%d bytes came back, of %d; %q", len(r.out), len(text), r.err)
		}
	})
	t.Run("empty input", func(t *testing.T) {
		if _, r := mustRun(t, c, container.Config{Cmd: []string{"cat"}}, container.HostConfig{}, strings.NewReader("")); r.err != "0 bytes\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		if _, r := mustRun(t, c, container.Config{Cmd: []string{"both"}, Tty: true}, container.HostConfig{}, nil); r.out != "to stdout\r\nto stderr\r\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("user of the image", func(t *testing.T) {
		if _, r := mustRun(t, c, container.Config{Cmd: []string{"id"}, User: "ann"}, container.HostConfig{}, nil); r.out != "1001 1002 /home/ann\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("volume gets the image's files", func(t *testing.T) {
		if _, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/data/seed"}}, container.HostConfig{}, nil); r.out != "from the image" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("bind mounts", func(t *testing.T) {
		dir := t.TempDir()
		host := container.HostConfig{Binds: []string{dir + ":/b", dir + ":/ro:ro"}}
		if _, r := mustRun(t, c, container.Config{Cmd: []string{"write", "/b/f", "text"}}, host, nil); r.code != 0 {
			t.Errorf("%+v", r)
		}
		if got, _ := os.ReadFile(dir + "/f"); string(got) != "text" {
			t.Errorf("%q", got)
		}
		if _, r := mustRun(t, c, container.Config{Cmd: []string{"write", "/ro/f", "text"}}, host, nil); r.code == 0 || !strings.Contains(r.err, "read-only") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("limits reach the cgroup", func(t *testing.T) {
		host := container.HostConfig{Resources: container.Resources{Memory: 64 << 20, NanoCPUs: 5e8}}
		_, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/proc/self/cgroup"}}, host, nil)
		if r.code != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("hosts", func(t *testing.T) {
		host := container.HostConfig{ExtraHosts: []string{"db:10.9.8.7", "gw:host-gateway"}}
		_, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/etc/hosts"}, Hostname: "box"}, host, nil)
		for _, want := range []string{"10.9.8.7\tdb\n", "10.213.77.1\tgw\n", "\tbox\n"} {
			if !strings.Contains(r.out, want) {
				t.Errorf("no %q in %q", want, r.out)
			}
		}
	})
	t.Run("no network", func(t *testing.T) {
		_, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/proc/net/dev"}}, container.HostConfig{NetworkMode: "none"}, nil)
		if strings.Contains(r.out, "eth0") || !strings.Contains(r.out, "lo:") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("commands that can't run", func(t *testing.T) {
		for _, x := range []struct{ cmd, text string }{
			{"nosuch", "executable file not found"}, {"/no/such", "no such file or directory"}, {"/noexec", "permission denied"},
		} {
			_, _, err := runOnce(t, c, container.Config{Entrypoint: []string{x.cmd}}, container.HostConfig{AutoRemove: true}, nil)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), x.text) {
				t.Errorf("%s: %v", x.cmd, err)
			}
		}
		if left := d.runner.Running(); left != 0 {
			t.Errorf("%d run", left)
		}
	})
}

func start(t *testing.T, c *client.Client, name string, host container.HostConfig, cmd ...string) string {
	t.Helper()
	made, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: name, Config: &container.Config{Image: "guest", Cmd: cmd}, HostConfig: &host,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(t.Context(), made.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	return made.ID
}

func TestLifeCycle(t *testing.T) {
	_, c := run(t)
	ctx := t.Context()
	id := start(t, c, "ticker", container.HostConfig{}, "tick")
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "ticker", Config: &container.Config{Image: "guest"}}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is already in use by container") {
		t.Error("name:", err)
	}
	if _, err := c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{}); !errdefs.IsConflict(err) {
		t.Error("removing a running one:", err)
	}
	if _, err := c.ContainerPause(ctx, id, client.ContainerPauseOptions{}); err != nil {
		t.Error(err)
	}
	expectStatus(t, c, id, "paused")
	if _, err := c.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{}); err != nil {
		t.Error(err)
	}
	if top, err := c.ContainerTop(ctx, id, client.ContainerTopOptions{}); err != nil || len(top.Processes) != 1 || !strings.HasSuffix(top.Processes[0][7], "/guest tick") {
		t.Errorf("%v %v", top, err)
	}
	if _, err := c.ContainerRename(ctx, id, client.ContainerRenameOptions{NewName: "tocker"}); err != nil {
		t.Error(err)
	}
	if _, err := c.ContainerRestart(ctx, "tocker", client.ContainerRestartOptions{}); err != nil {
		t.Error(err)
	}
	expectStatus(t, c, "tocker", "running")
	lines(t, c, id, 1, time.Now().Add(-10*time.Millisecond)) // it listens to signals by now
	if _, err := c.ContainerStop(ctx, id[:12], client.ContainerStopOptions{}); err != nil {
		t.Error(err)
	}
	in, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || in.Container.State.ExitCode != 3 || in.Container.Name != "/tocker" {
		t.Errorf("%+v %v", in.Container.State, err)
	}
	logs, err := c.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, Tail: "1"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, logs); err != nil || out.String() != "bye\n" {
		t.Errorf("%q %v", out.String(), err)
	}
	if _, err := c.ContainerKill(ctx, id, client.ContainerKillOptions{}); !errdefs.IsConflict(err) {
		t.Error("killing a dead one:", err)
	}
	if _, err := c.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: true}); err != nil {
		t.Error(err)
	}
	if list, err := c.ContainerList(ctx, client.ContainerListOptions{All: true}); err != nil || len(list.Items) != 0 {
		t.Errorf("%v %v", list.Items, err)
	}
}

// lines follows a container's log until n lines came since a time.
func lines(t *testing.T, c *client.Client, id string, n int, since time.Time) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o := client.ContainerLogsOptions{ShowStdout: true, Follow: true}
	if !since.IsZero() {
		o.Since = fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond())
	}
	logs, err := c.ContainerLogs(ctx, id, o)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var got []string
	r := bufio.NewScanner(logs)
	for len(got) < n && r.Scan() {
		got = append(got, r.Text()[min(8, len(r.Text())):]) // without stdcopy's head
	}
	if len(got) < n {
		t.Fatalf("%d lines, want %d: %v", len(got), n, r.Err())
	}
	return got
}

func expectStatus(t *testing.T, c *client.Client, id, want string) {
	t.Helper()
	in, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil || string(in.Container.State.Status) != want {
		t.Errorf("status %v, want %s: %v", in.Container.State, want, err)
	}
}

func TestStopKillsTheDeaf(t *testing.T) {
	_, c := run(t)
	id := start(t, c, "", container.HostConfig{}, "sleep")
	second := 1
	if _, err := c.ContainerStop(t.Context(), id, client.ContainerStopOptions{Timeout: &second}); err != nil {
		t.Fatal(err)
	}
	in, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil || in.Container.State.ExitCode != 137 {
		t.Errorf("%+v %v", in.Container.State, err)
	}
}

func TestPublishedPort(t *testing.T) {
	_, c := run(t)
	host := container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("8080/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1")}}}}
	id := start(t, c, "web", host, "serve", ":8080")
	in, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := in.Container.NetworkSettings.Ports[network.MustParsePort("8080/tcp")]
	if len(at) != 1 {
		t.Fatalf("%+v", in.Container.NetworkSettings)
	}
	body := eventually(t, func() (string, error) {
		resp, err := http.Get("http://" + netip.AddrPortFrom(at[0].HostIP, 0).Addr().String() + ":" + at[0].HostPort)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	})
	if body != "hello from the container" {
		t.Error(body)
	}
	list, err := c.ContainerList(t.Context(), client.ContainerListOptions{Filters: client.Filters{}.Add("name", "^/web$")})
	if err != nil || len(list.Items) != 1 || len(list.Items[0].Ports) != 1 || !strings.HasPrefix(list.Items[0].Status, "Up ") {
		t.Errorf("%+v %v", list.Items, err)
	}
}

func eventually(t *testing.T, f func() (string, error)) string {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var s string
		if s, err = f(); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return ""
}

func TestRestartPolicy(t *testing.T) {
	_, c := run(t)
	host := container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}}
	id := start(t, c, "", host, "exit", "5")
	eventually(t, func() (string, error) {
		in, err := c.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
		if err == nil && (in.Container.State.Status != "exited" || in.Container.RestartCount != 2) {
			err = fmt.Errorf("%+v, %d restarts", in.Container.State, in.Container.RestartCount)
		}
		return "", err
	})
}

func TestEvents(t *testing.T) {
	_, c := run(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ev := c.Events(ctx, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container")})
	time.Sleep(50 * time.Millisecond)
	id, _ := mustRun(t, c, container.Config{Cmd: []string{"exit", "4"}}, container.HostConfig{}, nil)
	for _, want := range []string{"create", "attach", "start", "die"} {
		select {
		case m := <-ev.Messages:
			if string(m.Action) != want || m.Actor.ID != id || want == "die" && m.Actor.Attributes["exitCode"] != "4" {
				t.Errorf("%+v, want %s", m, want)
			}
		case err := <-ev.Err:
			t.Fatal(err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no event %s", want)
		}
	}
	cancel()
	if err := <-ev.Err; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
