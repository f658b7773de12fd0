package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	moby "github.com/moby/moby/client"
)

const (
	lines   = 300 // that a container prints
	counter = `i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; exit 7`
	patient = `trap "exit 5" TERM; while :; do sleep 0.05; done`
)

// faults is how often a fault is made: a few times, and n times when GANTRY_FAULTS is all (make faults).
func faults(few, n int) int {
	if os.Getenv("GANTRY_FAULTS") == "all" {
		return n
	}
	return few
}

// Fifty kills of the daemon, each in the middle of a start, a stop, an exec and a copy: no container is lost or half
// there, no line of a log is missing or there twice, every exit code is right, and nothing is left when all are removed.
func TestKillsInTheMiddle(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	g.run("run", "-d", "--name", "host", "debian:bookworm-slim", "sh", "-c", patient)
	for round := range faults(10, 50) {
		name := func(what string) string { return what + strconv.Itoa(round) }
		g.run("run", "-d", "--name", name("stops"), "debian:bookworm-slim", "sh", "-c", patient)
		g.run("create", "--name", name("starts"), "debian:bookworm-slim", "sh", "-c", counter)
		payload := filepath.Join(t.TempDir(), "payload")
		if err := os.WriteFile(payload, bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		pid := g.status().PID
		var ops sync.WaitGroup
		for _, args := range [][]string{
			{"start", name("starts")}, {"stop", name("stops")}, {"exec", "host", "sh", "-c", "sleep 0.2"},
			{"cp", payload, "host:/payload"},
		} {
			ops.Go(func() { _, _, _ = g.try(args...) }) // it may fail: the daemon dies
		}
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		kill(t, pid)
		ops.Wait()

		g.run("start", name("starts")) // a second start of what runs is none
		if code := g.run("wait", name("starts")); code != "7" {
			t.Errorf("round %d: the container that was started ended with %s", round, code)
		}
		checkLines(t, round, g.run("logs", name("starts")))
		g.run("stop", name("stops"))
		if code := g.run("wait", name("stops")); code != "5" {
			t.Errorf("round %d: the container that was stopped ended with %s", round, code)
		}
		g.run("cp", payload, "host:/payload")
		if out := g.run("exec", "host", "stat", "-c", "%s", "/payload"); out != "1048576" {
			t.Errorf("round %d: what was copied has %s bytes", round, out)
		}
		g.run("rm", name("starts"), name("stops"))
		if t.Failed() {
			return
		}
	}
	g.run("rm", "-f", "host")
	if left := processesWith(t, g.root); len(left) > 1 {
		t.Errorf("beside the daemon there are left: %v", left)
	}
}

// checkLines wants the counter's lines, all of them, in order. Before them there may be those of a start that the killed daemon has not
// booked: that run was cut off, or is whole.
func checkLines(t *testing.T, round int, log string) {
	t.Helper()
	last := strings.Split(log, "\n")
	var first []string
	if n := len(last) - lines; n > 0 {
		first, last = last[:n], last[n:]
	}
	if len(first) > lines || len(last) != lines {
		t.Errorf("round %d: %d lines, last %q", round, len(first)+len(last), last[len(last)-1])
	}
	for _, run := range [][]string{first, last} {
		for i, l := range run {
			if l != fmt.Sprint("line ", i) {
				t.Errorf("round %d: line %d is %q", round, i, l)
				return
			}
		}
	}
}

// processesWith lists the processes whose command line has a word.
func processesWith(t *testing.T, word string) (found []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		text, err := os.ReadFile(f)
		if line := strings.ReplaceAll(string(text), "\x00", " "); err == nil && strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return found
}

// Five hundred containers come and go, and the daemon has as many open files and as much memory as before.
func TestNothingLeaks(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	daemon := g.status()
	pid := daemon.PID
	cycle := func(n int) {
		t.Helper()
		var all sync.WaitGroup
		for w := range 4 {
			all.Go(func() {
				for i := range n / 4 {
					if err := oneRun(t, daemon.Socket, fmt.Sprintf("c%d-%d", w, i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	cycle(40) // warm
	files, memory := usageOf(t, pid)
	cycle(faults(100, 500))
	eventually(t, "files and memory are given back", func() error {
		f, m := usageOf(t, pid)
		if f > files+8 || m > memory+24<<20 {
			return fmt.Errorf("%d open files, %d before; %d MiB, %d before", f, files, m>>20, memory>>20)
		}
		return nil
	})
}

// oneRun makes, starts, waits for, reads and removes a container.
func oneRun(t *testing.T, socket, name string) error {
	for _, step := range []struct{ what, body, want string }{
		{"POST /containers/create?name=" + name, fmt.Sprintf(`{"Image":"probe","Cmd":["say",%q]}`, name), `{"Id":`},
		{"POST /containers/" + name + "/start", "", ""},
		{"POST /containers/" + name + "/wait", "", `{"StatusCode":0}`},
		{"GET /containers/" + name + "/logs?stdout=1", "", name + "\n"},
		{"DELETE /containers/" + name, "", ""},
	} {
		status, said := send(t, socket, step.what, []byte(step.body))
		if status/100 != 2 || !strings.Contains(said, step.want) {
			return fmt.Errorf("%s: %d %q", step.what, status, said)
		}
	}
	return nil
}

// usageOf are a process's open files, and the bytes of its memory that are no file's.
func usageOf(t *testing.T, pid int) (files int, memory int64) {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			memory = n << 10
		}
	}
	return len(all), memory
}

// A container that prints a gigabyte ends as it would alone, its log stays as small as it was told to, and who follows
// it slowly holds nobody up.
func TestLogFlood(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	const flood = `head -c 1073741824 /dev/zero | tr '\0' x | fold -w 1000; echo the end`
	g.run("create", "--name", "flood", "--log-opt", "max-size=10m", "--log-opt", "max-file=3", "debian:bookworm-slim", "sh", "-c", flood)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	api, err := moby.New(moby.WithHost("unix://" + g.status().Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	g.run("start", "flood")
	slow, err := api.ContainerLogs(ctx, "flood", moby.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_, _ = io.ReadFull(slow, make([]byte, 100)) // and no more
	if code := g.run("wait", "flood"); code != "0" {
		t.Errorf("it ended with %s", code)
	}
	if out := g.run("logs", "--tail", "1", "flood"); !strings.HasSuffix(out, "xthe end") {
		t.Errorf("the last line is %q", out)
	}
	var kept int64
	files, err := filepath.Glob(filepath.Join(g.root, "containers", "*", "*-json.log*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		kept += fi.Size()
	}
	if kept > 31<<20 {
		t.Errorf("its log has %d MiB", kept>>20)
	}
}
