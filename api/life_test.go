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
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

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
	if _, err := c.ContainerCreate(ctx,
		client.ContainerCreateOptions{Name: "ticker", Config: &container.Config{Image: "guest"}}); !errdefs.IsConflict(err) ||
		!strings.Contains(err.Error(), "is already in use by container") {
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
	if top, err := c.ContainerTop(ctx, id, client.ContainerTopOptions{}); err != nil || len(top.Processes) != 1 ||
		!strings.HasSuffix(top.Processes[0][7], "/guest tick") {
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
	lines(t, c, id, 1, time.Time{})
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
	loopback := []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1")}}
	host := container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("8080/tcp"): loopback}}
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
