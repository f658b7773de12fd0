package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/gantry-build/gantry/runner/volume"
)

// spawn runs a daemon as a process of its own and waits until it is ready.
func spawn(t *testing.T, dir string) (kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "GANTRY_TEST_DAEMON="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe() // its end stops the daemon, so none survives this process
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	kill = func() {
		if !done {
			done = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			in.Close()
		}
	}
	t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("daemon: %q %v", line, err)
	}
	return kill
}

// TestKilledDaemon kills the daemon with SIGKILL while containers run, end, and were to be removed.
func TestKilledDaemon(t *testing.T) {
	dir := testDir(t)
	prepare(t, dir)
	t.Cleanup(func() { tidy(t, dir) }) // after the daemons, which end first
	kill := spawn(t, dir)
	c := connect(t, dir)
	ctx := t.Context()
	host := container.HostConfig{}
	ticker := start(t, c, "ticker", host, "tick")
	dying := start(t, c, "dying", host, "tick")
	goner := start(t, c, "goner", container.HostConfig{AutoRemove: true}, "tick")
	always := start(t, c, "always", container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}, "tick")
	for _, id := range []string{ticker, dying, goner, always} {
		lines(t, c, id, 2, time.Time{})
	}
	pids := map[string]int{}
	for _, id := range []string{dying, goner, always} {
		in, err := c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pids[id] = in.Container.State.Pid
	}
	kill()
	for _, pid := range pids {
		endProcess(t, pid)
	}
	spawn(t, dir)
	c = connect(t, dir)
	expectStatus(t, c, "ticker", "running")
	lines(t, c, ticker, 3, time.Now()) // what it prints is read again
	in, err := c.ContainerInspect(ctx, "dying", client.ContainerInspectOptions{})
	if err != nil || in.Container.State.Status != "exited" || in.Container.State.ExitCode != 3 {
		t.Errorf("the end while no daemon ran: %+v %v", in.Container.State, err)
	}
	eventually(t, func() (string, error) {
		if _, err := c.ContainerInspect(ctx, "goner", client.ContainerInspectOptions{}); err == nil {
			return "", errors.New("a container with --rm is still there")
		}
		in, err := c.ContainerInspect(ctx, "always", client.ContainerInspectOptions{})
		if err == nil && (in.Container.State.Status != "running" || in.Container.State.Pid == pids[always]) {
			err = errors.New("a container with restart=always does not run")
		}
		return "", err
	})
	if _, err := c.ContainerStop(ctx, "ticker", client.ContainerStopOptions{}); err != nil {
		t.Error(err)
	}
	expectStatus(t, c, "ticker", "exited")
}

// TestBadContainer starts a daemon over a container that can't be taken up, one whose record is garbage,
// and the half of a removal that shares its volume with a whole container.
func TestBadContainer(t *testing.T) {
	dir := testDir(t)
	prepare(t, dir)
	t.Cleanup(func() { tidy(t, dir) })
	kill := spawn(t, dir)
	c := connect(t, dir)
	ctx := t.Context()
	bad := start(t, c, "bad", container.HostConfig{}, "tick")
	start(t, c, "good", container.HostConfig{}, "tick")
	owner := start(t, c, "owner", container.HostConfig{AutoRemove: true}, "sleep")
	start(t, c, "heir", container.HostConfig{VolumesFrom: []string{"owner"}}, "tick")
	inspect, err := c.ContainerInspect(ctx, "heir", client.ContainerInspectOptions{})
	if err != nil || len(inspect.Container.Mounts) != 1 {
		t.Fatalf("%+v, %v", inspect.Container.Mounts, err)
	}
	volume := inspect.Container.Mounts[0].Source
	kill()
	pipes := dir + "/s/fifo/" + bad
	if _, err := os.Stat(pipes); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(pipes), os.WriteFile(pipes, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	record := dir + "/r/containers/" + owner + "/container.json"
	text, err := os.ReadFile(record)
	if err == nil {
		err = os.WriteFile(record, []byte(strings.Replace(string(text), `"Running": true`, `"Removing": true`, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	kill = spawn(t, dir)
	c = connect(t, dir)
	expectStatus(t, c, "good", "running")
	expectStatus(t, c, "heir", "running")
	expectStatus(t, c, "bad", "exited")
	if _, err := os.Stat(volume); err != nil {
		t.Errorf("the volume of a removed container that another one uses: %v", err)
	}
	if in, err := c.ContainerInspect(ctx, "bad", client.ContainerInspectOptions{}); err != nil || in.Container.State.Error == "" {
		t.Errorf("%+v, %v", in.Container.State, err)
	}
	if _, err := c.ContainerRemove(ctx, "bad", client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	kill()
	if err := os.MkdirAll(dir+"/r/containers/garbage", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/r/containers/garbage/container.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	spawn(t, dir)
	expectStatus(t, connect(t, dir), "good", "running")
	if err := os.RemoveAll(dir + "/r/containers/garbage"); err != nil {
		t.Fatal(err)
	}
}

// TestSubpath plants a symlink to the host at the place of a volume's directory between two starts.
func TestSubpath(t *testing.T) {
	d, c := run(t)
	ctx := t.Context()
	vol, err := d.runner.CreateVolume(volume.Volume{Name: "shared"})
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	for file, text := range map[string]string{vol.Path + "/sub/f": "inside", outside + "/f": "the host's"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	host := container.HostConfig{Mounts: []mount.Mount{{
		Type: mount.TypeVolume, Source: "shared", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "sub"},
	}}}
	id := start(t, c, "sub", host, "file", "/x/f")
	expect := func(want string) {
		t.Helper()
		wait := c.ContainerWait(ctx, id, client.ContainerWaitOptions{})
		select {
		case <-wait.Result:
		case err := <-wait.Error:
			t.Fatal(err)
		}
		if out := logsOf(t, c, id); !strings.HasSuffix(out, want) {
			t.Errorf("read %q, want %q", out, want)
		}
	}
	expect("inside")
	if err := errors.Join(os.Rename(vol.Path+"/sub", vol.Path+"/was"), os.Symlink(outside, vol.Path+"/sub")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err == nil {
		t.Errorf("a subpath that leads out of its volume was mounted: %q", logsOf(t, c, id))
	}
	if err := errors.Join(os.Remove(vol.Path+"/sub"), os.Symlink("was", vol.Path+"/sub")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("inside")
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(vol.Path)))), "s",
		"subpaths")); err == nil && len(left) > 0 {
		t.Errorf("mounts are left: %v", left)
	}
}

// logsOf returns the end of what a container has printed.
func logsOf(t *testing.T, c *client.Client, id string) string {
	t.Helper()
	logs, err := c.ContainerLogs(t.Context(), id, client.ContainerLogsOptions{ShowStdout: true, Tail: "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, logs); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// tidy takes a data root over and removes what is in it, whether the test went well or not.
func tidy(t *testing.T, dir string) {
	d, err := startDaemon(context.Background(), dir)
	if err != nil {
		t.Error(err)
		return
	}
	sweep(t, d)
	d.Close()
}

// prepare puts the image into a store that a daemon will own.
func prepare(t *testing.T, dir string) {
	t.Helper()
	d, err := startDaemon(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	writeImage(t, d.store)
	d.Close()
}

// endProcess sends SIGTERM to a container's process, of which nobody here is the parent, and waits.
func endProcess(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if !strings.HasPrefix(string(line), "/guest") {
		t.Fatalf("process %d is %q", pid, line)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("process %d does not end", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
