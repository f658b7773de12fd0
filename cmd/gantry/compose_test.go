package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // speaks to PostgreSQL

	"github.com/gantry-build/gantry/internal/need"
)

// composer is one way to Compose: gantry's command, or docker's plugin.
type composer struct {
	t       *testing.T
	program []string
	env     []string
	dir     string // of the project
	own     bool   // gantry's
}

// byEach runs a test by gantry's Compose, and by docker's at the same daemon.
func byEach(t *testing.T, g *gantry, dir string, test func(t *testing.T, c composer)) {
	t.Helper()
	docker := newClient(t, g)
	path, err := filepath.Abs(need.File(t, "../../.cache/peers/docker", "peers"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("gantry compose", func(t *testing.T) {
		test(t, composer{t, []string{g.bin, "compose"}, g.env, dir, true})
	})
	t.Run("docker compose", func(t *testing.T) {
		env := []string{"DOCKER_CONFIG=" + docker.config, "DOCKER_HOST=unix://" + docker.socket, "BUILDKIT_PROGRESS=plain"}
		test(t, composer{t, []string{path, "compose"}, env, dir, false})
	})
}

func (c composer) command(args ...string) *exec.Cmd {
	all := append(append([]string{}, c.program...), args...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), c.env...), c.dir
	return cmd
}

// try runs a command, and returns all that it printed and its exit code.
func (c composer) try(args ...string) (out string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := c.command(args...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(text.String()), cmd.ProcessState.ExitCode()
}

func (c composer) run(args ...string) string {
	c.t.Helper()
	out, code := c.try(args...)
	if code != 0 {
		c.t.Fatalf("compose %s: exit code %d\n%s", strings.Join(args, " "), code, tail(out, 40))
	}
	return out
}

// unless is an error when something is not good.
func unless(good bool, format string, args ...any) error {
	if good {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// page gets a page; what went wrong is a page, too.
func page(url string) string {
	res, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return strings.TrimSpace(string(text))
}

// The shop is built from Debian's packages. Its database keeps rows while containers come and go, its job has waited for the
// database, and its entrance finds three servers by one name.
func TestComposeShop(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	g.run("build", "-q", "-t", "probe", probe(t))
	byEach(t, g, "../../testdata/shop", func(t *testing.T, c composer) {
		db, web := freePort(t), freePort(t)
		c.env = append(c.env, "DB_PORT="+db, "WEB_PORT="+web)
		defer c.try("down", "-v", "-t", "1")
		c.run("up", "-d", "--build")
		if out := c.run("wait", "job"); !strings.Contains(out, "0") {
			t.Errorf("the job ended with %q", out)
		}
		items := count(t, db)
		if items != 1 {
			t.Errorf("the job has written %d rows", items)
		}
		servers := map[string]bool{}
		eventually(t, "three servers behind one name", func() error {
			if p := page("http://127.0.0.1:" + web); strings.HasSuffix(p, " amd64") {
				servers[p] = true
			}
			return unless(len(servers) == 3, "%v", servers)
		})
		c.run("down")
		if _, err := net.DialTimeout("tcp", "127.0.0.1:"+db, time.Second); err == nil {
			t.Error("the database answers after down")
		}
		c.run("up", "-d")
		c.run("wait", "job")
		if items := count(t, db); items != 2 {
			t.Errorf("%d rows are there after down and up, want 2", items)
		}
		c.run("down", "-v", "-t", "1")
		if out := g.run("volume", "ls", "-q"); strings.Contains(out, "shop_rows") {
			t.Errorf("down -v has left %s", out)
		}
	})
}

// count is how many rows the shop has, by a real SQL connection to the published port.
func count(t *testing.T, port string) (n int) {
	t.Helper()
	db, err := sql.Open("postgres", "host=127.0.0.1 port="+port+" user=postgres sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM items").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// An edit arrives in a container that runs, and what is built is built anew.
func TestComposeWatch(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "-t", "probe", probe(t))
	d := dir(t, map[string]string{
		"site/index.html": "one\n",
		"site/Dockerfile": "FROM probe\nCOPY index.html built.txt /site/\n",
		"site/built.txt":  "first\n",
		"compose.yaml": `name: watched
services:
  site:
    build: site
    command: [files, ":80", /site]
    ports: ["127.0.0.1:${PORT}:80"]
    develop:
      watch:
        - {action: sync, path: site/index.html, target: /site/index.html}
        - {action: rebuild, path: site/built.txt}
`,
	})
	byEach(t, g, d, func(t *testing.T, c composer) {
		port := freePort(t)
		c.env = append(c.env, "PORT="+port)
		write := func(file, text string) {
			if err := os.WriteFile(filepath.Join(d, "site", file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("index.html", "one\n")
		write("built.txt", "first\n")
		c.run("up", "-d", "--build")
		defer c.try("down", "-t", "1")
		watch := c.command("watch")
		var said bytes.Buffer
		watch.Stdout, watch.Stderr = &said, &said
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		stop := func() { _ = watch.Process.Signal(syscall.SIGINT); _ = watch.Wait() }
		defer func() { stop(); t.Logf("watch said:\n%s", said.String()) }()
		shows := func(file, want string) {
			t.Helper()
			eventually(t, file, func() error {
				got := page("http://127.0.0.1:" + port + "/" + file)
				return unless(got == want, "%s", got)
			})
		}
		shows("", "one")
		time.Sleep(2 * time.Second) // it says nothing when it begins to look
		before := g.run("inspect", "-f", "{{.Id}}", "watched-site-1")
		write("index.html", "two\n")
		shows("", "two")
		if now := g.run("inspect", "-f", "{{.Id}}", "watched-site-1"); now != before {
			t.Errorf("an edit that is copied has made a new container")
		}
		write("built.txt", "second\n")
		shows("built.txt", "second")
	})
}

// One file has a service for this machine's architecture and one for another, of one image.
func TestComposeForTwoArchitectures(t *testing.T) {
	g := newGantry(t)
	g.run("ps")
	d := dir(t, map[string]string{"compose.yaml": `name: mixed
x-image: &image
  image: mixed:1
  command: [arch]
services:
  pc:
    <<: *image
    platform: linux/amd64
    build:
      context: ` + probe(t) + `
      platforms: [linux/amd64, linux/arm/v7]
  pi:
    <<: *image
    platform: linux/arm/v7
    pull_policy: never
    depends_on: {pc: {condition: service_completed_successfully}}
`})
	byEach(t, g, d, func(t *testing.T, c composer) {
		defer c.try("down")
		c.run("build")
		out := c.run("up", "--no-color")
		for _, line := range []string{"pc-1  | amd64", "pi-1  | arm"} {
			if !strings.Contains(out, line) {
				t.Errorf("%q is not in what they print:\n%s", line, out)
			}
		}
	})
}
