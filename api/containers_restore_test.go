package api

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
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
