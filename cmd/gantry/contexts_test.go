package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// gitServer serves a repository with one commit of files over the git protocol, and returns its address.
func gitServer(t *testing.T, files map[string]string) string {
	t.Helper()
	git := need.Tool(t, "git")
	base := t.TempDir()
	repo := filepath.Join(base, "repo.git")
	if err := os.Rename(dir(t, files), repo); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."},
		{"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-q", "-m", "one"},
	} {
		cmd := exec.Command(git, args...)
		cmd.Dir = repo
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	port := freePort(t)
	cmd := exec.Command(git, "daemon", "--export-all", "--listen=127.0.0.1", "--port="+port, "--base-path="+base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // git starts the server as a child
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	})
	eventually(t, "git answers", func() error {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err
	})
	return "git://127.0.0.1:" + port + "/repo.git"
}

// A context is a directory, a tar or a Dockerfile on standard input, or an address; others come
// beside it by name.
func TestContexts(t *testing.T) {
	g := newGantry(t)
	const copyF = "FROM scratch\nCOPY f /f\n"
	t.Run("tar on stdin", func(t *testing.T) {
		g := *g
		g.t = t
		out := filepath.Join(t.TempDir(), "out")
		g.stdin(tarOf(t, map[string]string{"Dockerfile": copyF, "f": "from tar"}), "build", "-q", "-o", out, "-")
		if got := fileIn(t, out, "f"); got != "from tar" {
			t.Errorf("f is %q", got)
		}
	})
	t.Run("Dockerfile on stdin", func(t *testing.T) {
		g := *g
		g.t = t
		out := filepath.Join(t.TempDir(), "out")
		g.stdin([]byte("FROM scratch\nCOPY <<E /f\ninline\nE\n"), "build", "-q", "-o", out, "-")
		if got := fileIn(t, out, "f"); got != "inline" {
			t.Errorf("f is %q", got)
		}
		g.stdin([]byte("FROM scratch\nCOPY other /f\n"), "build", "-q", "-o", out, "-f", "-", dir(t, map[string]string{"other": "beside"}))
		if got := fileIn(t, out, "f"); got != "beside" {
			t.Errorf("f is %q", got)
		}
	})
	t.Run("HTTP", func(t *testing.T) {
		g := *g
		g.t = t
		body := tarOf(t, map[string]string{"Dockerfile": copyF, "f": "from far"})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(body)
		}))
		defer s.Close()
		if got := g.exported(s.URL + "/context.tar.gz"); got != "from far" {
			t.Errorf("f is %q", got)
		}
	})
	t.Run("git", func(t *testing.T) {
		g := *g
		g.t = t
		url := gitServer(t, map[string]string{"sub/Dockerfile": copyF, "sub/f": "from git"})
		if got := g.exported(url + "#main:sub"); got != "from git" {
			t.Errorf("f is %q", got)
		}
		g.fails([]string{"Dockerfile"}, "build", url+"#main")
	})
	t.Run("named", func(t *testing.T) { namedContexts(t, *g) })
	t.Run("ignore files", func(t *testing.T) { ignoreFiles(t, *g) })
}

func namedContexts(t *testing.T, g gantry) {
	g.t = t
	d := dir(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY --from=other f /f\n"})
	for _, text := range []string{"one", "two"} {
		other := dir(t, map[string]string{"f": text})
		if got := g.exported("--build-context", "other="+other, d); got != text {
			t.Errorf("f is %q, want %q", got, text)
		}
	}
	layout := filepath.Join(t.TempDir(), "layout")
	src := dir(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "in a layout"})
	g.run("build", "-q", "-o", "type=oci,tar=false,dest="+layout, "-t", "layout:1", src)
	if got := g.exported("--build-context", "other=oci-layout://"+layout+":1", d); got != "in a layout" {
		t.Errorf("f is %q", got)
	}
	g.run("build", "-q", "-t", "local-only", src)
	if got := g.exported("--build-context", "other=docker-image://local-only", d); got != "in a layout" {
		t.Errorf("f is %q", got)
	}
}

func ignoreFiles(t *testing.T, g gantry) {
	g.t = t
	d := dir(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY . /\n", "other": "FROM scratch\nCOPY . /\n", "f": "kept", "g": "ignored",
		".dockerignore": "g\n", "other.dockerignore": "f\n",
	})
	for file, want := range map[string][]string{"Dockerfile": {"f"}, "other": {"g"}} {
		out := filepath.Join(t.TempDir(), "out")
		g.run("build", "-q", "-o", out, "-f", filepath.Join(d, file), d)
		got, err := filepath.Glob(filepath.Join(out, "[fg]"))
		if err != nil || len(got) != 1 || filepath.Base(got[0]) != want[0] {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
}

// Archives of every usual compression are unpacked, by a daemon that finds no program to do it.
func TestArchives(t *testing.T) {
	g := newGantry(t)
	tree := dir(t, map[string]string{"etc/inside": "from the archive"})
	names := map[string][]string{"gz": {"gzip"}, "bz2": {"bzip2"}, "xz": {"xz"}, "zst": {"zstd"}}
	files := map[string]string{}
	for ext, tool := range names {
		need.Tool(t, tool[0])
		out, err := exec.Command("tar", "-C", tree, "--use-compress-program", tool[0], "-cf", "-", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		files["a.tar."+ext] = string(out)
	}
	g.env = append(g.env, "PATH=/nowhere")
	for ext := range names {
		files["Dockerfile"] = "FROM scratch\nADD a.tar." + ext + " /d/\n"
		d, out := dir(t, files), filepath.Join(t.TempDir(), "out")
		g.run("build", "-q", "-o", out, d)
		if got := fileIn(t, out, "d", "etc", "inside"); got != "from the archive" {
			t.Errorf("ADD of %s: %q", ext, got)
		}
		g.run("import", filepath.Join(d, "a.tar."+ext), "imported:"+ext)
		saved := filepath.Join(t.TempDir(), "saved.tar")
		g.run("save", "-o", saved, "imported:"+ext)
		out2, err := exec.Command(names[ext][0], "-c", saved).Output()
		if err != nil {
			t.Fatal(err)
		}
		if said := g.stdin(out2, "load"); !strings.Contains(said, "imported:"+ext) {
			t.Errorf("load of %s: %s", ext, said)
		}
	}
}
