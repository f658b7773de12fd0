package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

const both = "linux/amd64,linux/arm/v7"

// The main job: one command builds the sample for two platforms and pushes it over self-signed TLS;
// foreign tools read the index back; both images come back from the registry, run, and answer.
func TestSampleForTwoPlatforms(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	host := g.registry(true)
	ref := host + "/simple-rest-app:e2e"
	before := binfmt(t)
	digest := g.run("build", "-q", "--platform", both, "-t", ref, "--push", "../../testdata/simple-rest-app")
	if after := binfmt(t); after != before {
		t.Errorf("the host's binfmt_misc has changed:\n%s\n%s", before, after)
	}
	if !strings.HasPrefix(digest, "sha256:") || strings.Contains(digest, "\n") {
		t.Fatalf("build -q printed %q", digest)
	}
	t.Run("read back", func(t *testing.T) { readBack(t, g, ref, digest) })
	if out := g.run("image", "inspect", "--format", "{{.ID}}", ref); out != digest {
		t.Errorf("local image is %s, pushed %s", out, digest)
	}
	g.run("rmi", "-f", ref)
	for platform, machine := range map[string]string{"linux/amd64": "x86_64", "linux/arm/v7": "armv7l"} {
		g.run("pull", "-q", "--platform", platform, ref)
		port := freePort(t)
		id := g.run("run", "-d", "--platform", platform, "-p", port+":8080", ref)
		body := get(t, "http://127.0.0.1:"+port+"/")
		if !strings.Contains(body, machine) {
			t.Errorf("%s answers %s", platform, body)
		}
		if out := g.run("ps", "--no-trunc", "--format", "{{.ID}} {{.Ports}}"); !strings.Contains(out, id) ||
			!strings.Contains(out, port+"->8080/tcp") {
			t.Errorf("ps: %s", out)
		}
		g.run("stop", id)
		g.run("rm", id)
	}
}

// readBack holds what the registry has against tools that are not ours.
func readBack(t *testing.T, g *gantry, ref, digest string) {
	ca := filepath.Join(g.root, "registry", "tls", "ca.crt")
	crane := need.File(t, "../../.cache/peers/crane", "peers")
	cmd := exec.Command(crane, "digest", ref)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+ca)
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != digest {
		t.Errorf("crane digest: %v: %s; want %s", err, out, digest)
	}
	cmd = exec.Command(crane, "validate", "--remote", ref)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+ca)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("crane validate: %v: %s", err, out)
	}
	certs := t.TempDir()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "ca.crt"), pem, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm"} {
		out, err := exec.Command(need.Tool(t, "skopeo"), "inspect", "--override-arch", arch, "--override-variant",
			map[string]string{"arm": "v7"}[arch],
			"--cert-dir", certs, "docker://"+ref).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"Architecture": "`+arch+`"`) {
			t.Errorf("skopeo inspect for %s: %v: %s", arch, err, out)
		}
	}
}

func binfmt(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	entries, err := filepath.Glob("/proc/sys/fs/binfmt_misc/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		dt, _ := os.ReadFile(e)
		fmt.Fprintf(&b, "%s: %s\n", e, dt)
	}
	return b.String()
}

// get returns what url answers, within a minute.
func get(t testing.TB, url string) (body string) {
	t.Helper()
	eventually(t, url+" answers", func() error {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		body = string(b)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, b)
		}
		return err
	})
	return body
}

// Ten commands at once, with no daemon: one starts it, all are served by it.
func TestTenStartsAtOnce(t *testing.T) {
	g := newGantry(t)
	ctx := probe(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	pids := map[int]bool{}
	for i := range 10 {
		wg.Go(func() {
			_, stderr, err := g.try("build", "-q", "-t", fmt.Sprintf("probe:%d", i), ctx)
			if err != nil {
				t.Errorf("build %d: %v\n%s", i, err, stderr)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			pids[g.status().PID] = true
		})
	}
	wg.Wait()
	if len(pids) != 1 {
		t.Errorf("daemons: %v", pids)
	}
	if n := len(strings.Split(g.run("images", "--format", "{{.Tag}}"), "\n")); n != 10 {
		t.Errorf("%d images, want 10", n)
	}
}

// Two data roots have two daemons that know nothing of each other.
func TestTwoRootsShareNothing(t *testing.T) {
	a, b := newGantry(t), newGantry(t)
	a.run("build", "-q", "-t", "only-a", probe(t))
	if out := b.run("images", "-q"); out != "" {
		t.Errorf("the second root sees %s", out)
	}
	if a.status().PID == b.status().PID {
		t.Error("one daemon for two roots")
	}
}

// A daemon that dies in the middle of a build leaves a whole store: the next one builds the same.
func TestKillDuringBuild(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64")
	ctx := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN seq 1 100000 > /a\nRUN sleep 5; seq 1 1000 > /b\n"})
	cmd := g.command("build", "-t", "killed", ctx)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond)
	pid := g.status().PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatalf("the build outlived its daemon:\n%s", out.String())
	}
	g.run("build", "-q", "-t", "killed", ctx)
	if g.status().PID == pid {
		t.Error("the daemon was not killed")
	}
	if out := g.run("run", "--rm", "killed", "sh", "-c", "wc -l < /a; wc -l < /b"); out != "100000\n1000" {
		t.Errorf("the result holds %q", out)
	}
}

// The unchanged build is the same image; an import of the same tar is, too.
func TestUnchanged(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	base := g.run("image", "inspect", "--format", "{{.ID}}", "debian:bookworm-slim")
	g.base("linux/amd64")
	if again := g.run("image", "inspect", "--format", "{{.ID}}", "debian:bookworm-slim"); again != base {
		t.Errorf("imported again: %s, then %s", base, again)
	}
	ctx := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nARG WHO=nobody\nRUN echo $WHO $(uname -m) > /who\nFROM " +
		"scratch AS only\nCOPY --from=0 /who /\n"})
	first := g.run("build", "-q", "--platform", both, "-t", "x", ctx)
	if again := g.run("build", "-q", "--platform", both, "-t", "x", ctx); again != first {
		t.Errorf("%s, then %s", first, again)
	}
	if other := g.run("build", "-q", "--platform", both, "--build-arg", "WHO=me", "-t", "x", ctx); other == first {
		t.Error("--build-arg changed nothing")
	}
	stage := g.run("build", "-q", "--target", "only", "--platform", "linux/arm/v7", "-t", "y", ctx)
	if p := g.run("image", "inspect", "--format", "{{.Architecture}}/{{.Variant}} {{.ID}}", "y"); p != "arm/v7 "+stage {
		t.Errorf("built for %s", p)
	}
}

// A build FROM an image that was built here and never pushed, and a push of it afterwards.
func TestBuildFromBuilt(t *testing.T) {
	g := newGantry(t)
	g.run("build", "-q", "--platform", both, "-t", "parent", probe(t))
	host := g.registry(false)
	ref := host + "/child:1"
	ctx := dir(t, map[string]string{"Dockerfile": "FROM parent\nCOPY x /x\n", "x": "1"})
	local := g.run("build", "-q", "--platform", both, "-t", ref, ctx)
	if out := g.run("run", "--rm", "--platform", "linux/arm/v7", ref, "arch"); out != "arm" {
		t.Errorf("it says %q", out)
	}
	out := g.run("push", ref)
	_, pushed, _ := strings.Cut(g.run("image", "inspect", "--format", "{{index .RepoDigests 0}}", ref), "@")
	if id := g.run("image", "inspect", "--format", "{{.ID}}", ref); !strings.Contains(out, "digest: "+pushed+" ") || pushed == local ||
		id != local {
		t.Errorf("push of %s says %s; inspect says %s, and %s in the registry", local, out, id, pushed)
	}
	again := g.run("build", "-q", "--platform", both, "-t", ref, "--push", ctx)
	if again != pushed {
		t.Errorf("push of a built image gives %s, build --push %s", pushed, again)
	}
	g.run("rmi", "-f", ref)
	g.run("pull", "-q", "--platform", "linux/arm/v7", ref)
	if out := g.run("run", "--rm", "--platform", "linux/arm/v7", ref, "arch"); out != "arm" {
		t.Errorf("pulled, it says %q", out)
	}
}
