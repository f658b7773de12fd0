package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gantry-build/gantry/internal/need"
)

const day = "../../testdata/day/"

// The unmodified docker CLI goes through a day of networks, volumes, containers, images and builds with gantry as with
// dockerd, but for what is
// listed with a reason. GANTRY_REFERENCE, the address of a dockerd, writes down what that answers instead; it is to have
// nothing in it.
func TestDay(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	c := newClient(t, g)
	at := os.Getenv("GANTRY_REFERENCE")
	if at == "" {
		at = "unix://" + c.socket
	}
	bin := t.TempDir()
	docker, err := filepath.Abs(need.File(t, "../../.cache/peers/docker", "peers"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(docker, filepath.Join(bin, "docker")); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "DOCKER_CONFIG="+c.config, "DOCKER_HOST="+at, "base=debian:bookworm-slim",
		"PATH="+bin+":"+os.Getenv("PATH"))
	commands := blocks(t, "commands", false)
	if at != "unix://"+c.socket {
		image := filepath.Join(bin, "image.tar")
		g.run("save", "-o", image, "debian:bookworm-slim")
		said(t, env, "docker load -i "+image)
		var out strings.Builder
		for _, b := range commands {
			fmt.Fprintf(&out, "$ %s\n%s", b.command, said(t, env, b.command))
		}
		if err := os.WriteFile(day+"reference", []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, otherwise := answers(t, "reference"), answers(t, "differences")
	if len(commands) < 150 {
		t.Fatalf("%d commands", len(commands))
	}
	for _, b := range commands {
		got := said(t, env, b.command)
		text, listed := otherwise[b.command]
		if !listed {
			text = want[b.command]
		} else if text == want[b.command] {
			t.Errorf("%s: listed as a difference, and none", b.command)
		}
		if got != text {
			t.Errorf("%s (-want +got):\n%s", b.command, cmp.Diff(text, got))
		}
	}
}

type block struct{ command, answer string }

// blocks reads a file of commands; with answers each is a line that begins with a dollar, and what follows is its answer.
// Lines that begin with # are for people.
func blocks(t *testing.T, name string, answered bool) (all []block) {
	t.Helper()
	text, err := os.ReadFile(day + name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		switch command, is := strings.CutPrefix(line, "$ "); {
		case strings.HasPrefix(line, "#"):
		case !answered:
			all = append(all, block{command: strings.TrimSpace(line)})
		case is:
			all = append(all, block{command: strings.TrimSpace(command)})
		default:
			all[len(all)-1].answer += line
		}
	}
	return all
}

// answers are a file's answers by command; of several of one command, together.
func answers(t *testing.T, name string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, b := range blocks(t, name, true) {
		all[b.command] = b.answer
	}
	return all
}

// whatever is different each time.
var whatever = []struct {
	is *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<id>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "<short id>"},
	{regexp.MustCompile(`\b172\.\d+\.\d+\.\d+\b`), "<address>"},
	{regexp.MustCompile(`reclaimed space: .*`), "reclaimed space: <size>"},
}

// said is a command's output and exit code.
func said(t *testing.T, env []string, command string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text := out.String() + errs.String() // in this order, as which comes first is by chance
	for _, w := range whatever {
		text = w.is.ReplaceAllString(text, w.as)
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		text += fmt.Sprintf("exit %d\n", code)
	}
	return text
}
