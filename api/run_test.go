package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
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

// endless is an input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

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
	t.Run("input that nobody reads", func(t *testing.T) {
		for range 3 {
			_, r := mustRun(t, c, container.Config{Cmd: []string{"big"}}, container.HostConfig{}, endless{})
			if len(r.out) != 4<<20 {
				t.Errorf("%d bytes of output, %q", len(r.out), r.err)
			}
		}
	})
	t.Run("empty input", func(t *testing.T) {
		_, r := mustRun(t, c, container.Config{Cmd: []string{"cat"}}, container.HostConfig{}, strings.NewReader(""))
		if r.err != "0 bytes\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		_, r := mustRun(t, c, container.Config{Cmd: []string{"both"}, Tty: true}, container.HostConfig{}, nil)
		if r.out != "to stdout\r\nto stderr\r\n" {
			t.Errorf("%+v", r)
		}
	})
}

// What a container is given besides its image: user, mounts, limits, names.
func TestRunSettings(t *testing.T) {
	d, c := run(t)
	t.Run("user of the image", func(t *testing.T) {
		_, r := mustRun(t, c, container.Config{Cmd: []string{"id"}, User: "ann"}, container.HostConfig{}, nil)
		if r.out != "1001 1002 /home/ann\n" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("volume gets the image's files", func(t *testing.T) {
		_, r := mustRun(t, c, container.Config{Cmd: []string{"file", "/data/seed"}}, container.HostConfig{}, nil)
		if r.out != "from the image" {
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
		_, r := mustRun(t, c, container.Config{Cmd: []string{"write", "/ro/f", "text"}}, host, nil)
		if r.code == 0 || !strings.Contains(r.err, "read-only") {
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
