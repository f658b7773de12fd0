package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// failing is a step that ends badly with everything that a step can have.
const failing = `FROM debian:bookworm-slim
WORKDIR /src
ENV COLOUR=blue
RUN --mount=type=secret,id=token,env=TOKEN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch \
    --mount=type=bind,target=/context echo left > /written && echo cached > /cache/file && exit 7
`

func TestDebugAFailedStep(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	context := dir(t, map[string]string{"Dockerfile": failing, "token": "sesame"})
	secret := "id=token,src=" + filepath.Join(context, "token")

	for platform, machine := range map[string]string{"linux/amd64": "x86_64", "linux/arm/v7": "armv7l"} {
		t.Run(platform, func(t *testing.T) {
			said := g.fails([]string{"Dockerfile:4", "exit code: 7"}, "build", "--platform", platform, "--secret", secret, context)
			_, build, ok := strings.Cut(said, "gantry debug ")
			if !ok {
				t.Fatalf("the build does not say how to look into the step:\n%s", said)
			}
			build = strings.Fields(build)[0]
			if ls := g.run("debug", "ls"); !strings.Contains(ls, build) || !strings.Contains(ls, platform) {
				t.Errorf("debug ls does not show build %s for %s:\n%s", build, platform, ls)
			}

			got := g.run("debug", build, "sh", "-c",
				`pwd; uname -m; echo $COLOUR; cat /written /cache/file; ls /context; test -w /scratch; echo "$TOKEN"`)
			want := "/src\n" + machine + "\nblue\nleft\ncached\nDockerfile\ntoken"
			if got != want {
				t.Errorf("in the step:\n%s\nwant:\n%s", got, want)
			}
			if got := g.run("debug", "--secret", secret, build, "sh", "-c", `echo "$TOKEN"`); got != "sesame" {
				t.Errorf("the secret asked for is %q", got)
			}
			if got := g.stdin([]byte("rm /written; echo from the shell\n"), "debug", build); got != "from the shell" {
				t.Errorf("a shell on standard input said %q", got)
			}
			if got := g.run("debug", build, "cat", "/written"); got != "left" {
				t.Errorf("after another shell removed the file: %q", got)
			}
			_, _, err := g.try("debug", build, "sh", "-c", "exit 9")
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 9 {
				t.Errorf("exit 9 in the shell ended as: %v", err)
			}
		})
	}

	g.fails([]string{"no failed step of build nonsense", "gantry debug ls"}, "debug", "nonsense")
	g.run("prune", "-af")
	g.fails([]string{"no failed step is kept"}, "debug")
}

func TestDebugOnATerminal(t *testing.T) {
	script := need.Tool(t, "script")
	g := newGantry(t)
	g.base("linux/amd64")
	g.fails([]string{"exit code: 7"}, "build", dir(t, map[string]string{"Dockerfile": failing}))
	cmd := exec.Command(script, "-qec", "stty rows 33 cols 99; "+program(t)+" debug", "/dev/null")
	cmd.Env = g.command().Env
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer in.Close()
		time.Sleep(time.Second) // script passes on what is typed too early before the shell is there
		_, _ = in.Write([]byte("stty size; tty; exit 3\n"))
		time.Sleep(3 * time.Second)
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("exit 3 in the shell ended as: %v", err)
	}
	for _, want := range []string{"its secrets are not here: token", "33 99", "/dev/pts/"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in:\n%s", want, out.String())
		}
	}
}

func TestOutOfMemoryIsNamed(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	context := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN head -c 300000000 /dev/zero | tail\n"})
	g.fails([]string{"Dockerfile:2", "out of memory", "64MiB", "--memory", "head -c"}, "build", "--memory", "64m", context)
}
