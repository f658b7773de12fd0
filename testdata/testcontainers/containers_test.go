// Package testcontainers drives a gantry daemon by testcontainers-go, as the tests of a project of its users do. It is a
// module of its own, so that gantry does not have the library's dependencies; cmd/gantry's tests run it.
package testcontainers

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	tc "github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

const base = "debian:bookworm-slim"

// withInit has process 1 pass signals on, so that sleep ends when it is asked to.
func withInit() tc.CustomizeRequestOption {
	return tc.WithHostConfigModifier(func(h *container.HostConfig) { yes := true; h.Init = &yes })
}

// A server that is built from a Dockerfile is waited for by its port, its log, HTTP and its health, and answers.
func TestServer(t *testing.T) {
	ctx := t.Context()
	c, err := tc.Run(ctx, "",
		tc.WithDockerfile(tc.FromDockerfile{Context: os.Getenv("PROBE"), KeepImage: true, Repo: "probe", Tag: "tc"}),
		tc.WithCmd("serve", ":8080", "tested"),
		tc.WithExposedPorts("8080/tcp"),
		tc.WithWaitStrategy(wait.ForListeningPort("8080/tcp"), wait.ForHTTP("/").WithPort("8080/tcp")),
	)
	tc.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	at, err := c.PortEndpoint(ctx, "8080/tcp", "http")
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "tested "+runtime.GOARCH+"\n" {
		t.Errorf("%q, %v", body, err)
	}
	stop := 2 * time.Second
	if err := c.Stop(ctx, &stop); err != nil {
		t.Error(err)
	}
	if s, err := c.State(ctx); err != nil || s.Running {
		t.Errorf("%+v, %v", s, err)
	}
	if err := c.Start(ctx); err != nil {
		t.Error(err)
	}
}

// Files go in before and after the start, and come out; commands run inside; logs are read and followed.
func TestFilesCommandsAndLogs(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "greeting"), []byte("hello\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	c, err := tc.Run(ctx, base,
		tc.WithEnv(map[string]string{"WHO": "me"}),
		tc.WithFiles(tc.ContainerFile{HostFilePath: filepath.Join(dir, "greeting"), ContainerFilePath: "/srv/greeting", FileMode: 0o600}),
		tc.WithCmd("sh", "-c", "cat /srv/greeting; echo ready; exec sleep 1000"), withInit(),
		tc.WithLogConsumers(consumer(lines)),
		tc.WithWaitStrategy(wait.ForLog("ready"), wait.ForExec([]string{"test", "-f", "/srv/greeting"})),
	)
	tc.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hello", "ready"} {
		select {
		case got := <-lines:
			if strings.TrimSpace(got) != want {
				t.Errorf("followed %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q was not followed", want)
		}
	}
	code, out, err := c.Exec(ctx, []string{"sh", "-c", "echo $WHO; stat -c %a /srv/greeting; exit 3"}, exec.Multiplexed())
	if err != nil || code != 3 {
		t.Errorf("%d, %v", code, err)
	}
	if said, err := io.ReadAll(out); err != nil || string(said) != "me\n600\n" {
		t.Errorf("%q, %v", said, err)
	}
	if err := c.CopyToContainer(ctx, []byte("more"), "/srv/more", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.CopyDirToContainer(ctx, dir, "/srv/"+filepath.Base(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"/srv/more": "more", "/srv/" + filepath.Base(dir) + "/greeting": "hello\n"} {
		f, err := c.CopyFileFromContainer(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		f.Close()
	}
	logs, err := c.Logs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if all, err := io.ReadAll(logs); err != nil || string(all) != "hello\nready\n" {
		t.Errorf("%q, %v", all, err)
	}
}

type consumer chan string

func (c consumer) Accept(l tc.Log) { c <- string(l.Content) }

// Containers of one network find each other by their aliases.
func TestNetwork(t *testing.T) {
	ctx := t.Context()
	net, err := network.New(ctx)
	tc.CleanupNetwork(t, net)
	if err != nil {
		t.Fatal(err)
	}
	server, err := tc.Run(ctx, base, network.WithNetwork([]string{"server"}, net), tc.WithCmd("sleep", "1000"), withInit())
	tc.CleanupContainer(t, server)
	if err != nil {
		t.Fatal(err)
	}
	client, err := tc.Run(ctx, base, network.WithNetwork([]string{"client"}, net), tc.WithCmd("sleep", "1000"), withInit())
	tc.CleanupContainer(t, client)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, err := client.Exec(ctx, []string{"getent", "hosts", "server"}); err != nil || code != 0 {
		t.Errorf("%d, %v", code, err)
	}
}

// A container that ends is told from one that does not come up.
func TestExit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := tc.Run(ctx, base, tc.WithCmd("sh", "-c", "exit 4"), tc.WithWaitStrategy(wait.ForExit()))
	tc.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.State(ctx); err != nil || s.ExitCode != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	bad, err := tc.Run(ctx, base, tc.WithCmd("sh", "-c", "echo no; exit 1"), tc.WithWaitStrategy(wait.ForLog("never")))
	tc.CleanupContainer(t, bad)
	if err == nil || !strings.Contains(err.Error(), "exited with code 1") {
		t.Errorf("%v", err)
	}
}
