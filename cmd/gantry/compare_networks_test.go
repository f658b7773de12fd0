package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
)

// BenchmarkNetworksAgainstDocker makes twenty containers on a network of a user's, connects each to another one and starts
// it, by the Engine API of gantry and of Debian's docker.io in turn.
func BenchmarkNetworksAgainstDocker(b *testing.B) {
	g := newGantry(b)
	g.base("linux/amd64")
	image := filepath.Join(b.TempDir(), "image.tar")
	g.run("save", "-o", image, "debian:bookworm-slim")
	ours := apiOf{b, g.status().Socket}
	theirs := apiOf{b, startDocker(b, alone)}
	tar, err := os.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer tar.Close()
	theirs.do(http.MethodPost, "/images/load", tar)
	twenty := row{name: "create, connect and start 20 containers on a network of a user's"}
	for range 5 {
		twenty.gantry = append(twenty.gantry, ours.twenty())
		twenty.peer = append(twenty.peer, theirs.twenty())
	}
	report(b, "networks", "docker.io of Debian", []row{twenty})
}

// apiOf is a daemon by its API.
type apiOf struct {
	b      *testing.B
	socket string
}

func (e apiOf) do(method, path string, body io.Reader) {
	e.b.Helper()
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(e.b.Context(), method, "http://engine"+path, body)
	if err != nil {
		e.b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if strings.HasSuffix(path, "/load") {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	res, err := client.Do(req)
	if err != nil {
		e.b.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode/100 != 2 {
		e.b.Fatalf("%s %s: %s: %s", method, path, res.Status, text)
	}
}

func (e apiOf) post(path, body string) { e.do(http.MethodPost, path, strings.NewReader(body)) }

func (e apiOf) twenty() time.Duration {
	for _, n := range []string{"one", "two"} {
		e.post("/networks/create", fmt.Sprintf(`{"Name":%q}`, n))
	}
	took := timed(func() {
		for i := range 20 {
			name := fmt.Sprint("twenty", i)
			e.post("/containers/create?name="+name,
				`{"Image":"debian:bookworm-slim","Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"one"}}`)
			e.post("/networks/two/connect", fmt.Sprintf(`{"Container":%q}`, name))
			e.post("/containers/"+name+"/start", "")
		}
	})
	for i := range 20 {
		e.do(http.MethodDelete, fmt.Sprintf("/containers/twenty%d?force=1", i), nil)
	}
	for _, n := range []string{"one", "two"} {
		e.do(http.MethodDelete, "/networks/"+n, nil)
	}
	return took
}

// alone enters a network namespace in which there is nothing else.
var alone = []string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$0" "$@"`}

// startDocker runs Debian's dockerd until the benchmark ends, by a command that enters a network namespace, and returns its socket.
func startDocker(b *testing.B, within []string) string {
	root, err := filepath.Abs("../../.cache/peers/docker.io")
	if err != nil {
		b.Fatal(err)
	}
	need.File(b, root+"/usr/sbin/dockerd", "peers")
	dir := b.TempDir()
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(dir, "docker.sock")
	all := append(slices.Clone(within), root+"/usr/sbin/dockerd", "--config-file", config,
		"--data-root", dir+"/root", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "-H", "unix://"+socket)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+root+"/usr/sbin:"+root+"/usr/bin:"+os.Getenv("PATH"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		for _, m := range mountsBelow(dir) {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return socket
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			b.Fatalf("dockerd does not answer: %v\n%s", err, tail(string(text), 20))
		}
	}
}
