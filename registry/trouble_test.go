package registry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
)

func tmpfs(t *testing.T, flags uintptr, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		need.Miss(t, "mounting a tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		need.Miss(t, fmt.Sprintf("mounting a tmpfs is not allowed here: %v", err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func refused(t *testing.T, o Options, wants ...string) {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err == nil {
		t.Fatal("it started", s.Close())
	}
	for _, w := range wants {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is missing in: %v", w, err)
		}
	}
}

func TestPortInUseNamesTheHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refused(t, Options{Root: t.TempDir(), Addr: l.Addr().String()},
		l.Addr().String(), fmt.Sprintf("(process %d)", os.Getpid()), "--addr")
}

func TestRefusedStarts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, Options{}, "root")
	refused(t, Options{Root: file, Addr: "127.0.0.1:0"}, file, "a file lies")
	refused(t, Options{Root: t.TempDir(), Addr: "5000"}, `"5000"`, "HOST:PORT")
	refused(t, Options{Root: t.TempDir(), Addr: "192.0.2.1:0", Open: true}, "192.0.2.1:0", "no address of this machine")
	refused(t, Options{Root: t.TempDir(), Addr: "127.0.0.1:0", TLS: true, Hosts: []string{"http://x"}}, "http://x")
}

func TestRefusedStartFreesThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	refused(t, Options{Root: t.TempDir(), Addr: addr, TLS: true, Hosts: []string{"a b"}}, "a b")
	start(t, Options{Addr: addr})
}

func TestReadOnlyRoot(t *testing.T) {
	dir := tmpfs(t, unix.MS_RDONLY, "size=1m")
	refused(t, Options{Root: filepath.Join(dir, "registry"), Addr: "127.0.0.1:0"}, dir, "cannot write", "choose another root")
}

// refusals counts the requests that a server has refused.
type refusals struct{ n atomic.Int64 }

func (r *refusals) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && resp.StatusCode >= 400 && req.Method != http.MethodHead {
		r.n.Add(1)
	}
	return resp, err
}

func TestFullDisk(t *testing.T) {
	dir := tmpfs(t, 0, "size=4m")
	s, said := start(t, Options{Root: dir})
	counted := &refusals{}
	push := func(tag string, size int64) error {
		img, err := random.Image(size, 1)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(s.Addr().String() + "/big:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		return remote.Write(ref, img, remote.WithTransport(counted))
	}
	if err := push("small", 10_000); err != nil {
		t.Fatal(err)
	}
	err := push("large", 6_000_000)
	if err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("pushing what does not fit: %v", err)
	}
	if n := counted.n.Load(); n > 2 { // of the layer and the config, side by side
		t.Errorf("the client was refused %d times: it tries again", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 4<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	refused(t, Options{Root: dir, Addr: "127.0.0.1:0"}, "full", "free space")
	if err := push("none", 1000); err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("pushing to a full disk: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
		t.Fatal(err)
	}
	if _, err := purge(t.Context(), filepath.Join(dir, dataDir), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := push("again", 10_000); err != nil {
		t.Errorf("after space was freed: %v\n%s", err, said)
	}
}

func TestPurgeRemovesOnlyAbandonedUploads(t *testing.T) {
	data := t.TempDir()
	repo := filepath.Join(data, "docker/registry/v2/repositories/team/app")
	for path, age := range map[string]time.Duration{
		"_uploads/old/data": 48 * time.Hour, "_uploads/old/startedat": 48 * time.Hour,
		"_uploads/busy/data": time.Minute, "_uploads/busy/startedat": 48 * time.Hour,
		"_layers/sha256/x/link": 48 * time.Hour,
	} {
		full := filepath.Join(repo, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		for _, p := range []string{full, filepath.Dir(full)} {
			if err := os.Chtimes(p, then, then); err != nil {
				t.Fatal(err)
			}
		}
	}
	n, err := purge(t.Context(), data, time.Now().Add(-abandoned))
	if err != nil || n != 1 {
		t.Fatalf("removed %d, %v; want 1", n, err)
	}
	for path, want := range map[string]bool{"_uploads/old": false, "_uploads/busy/data": true, "_layers/sha256/x/link": true} {
		if _, err := os.Stat(filepath.Join(repo, path)); (err == nil) != want {
			t.Errorf("%s there: %v, want %v", path, err == nil, want)
		}
	}
	if _, err := purge(t.Context(), t.TempDir(), time.Now()); err != nil {
		t.Errorf("an empty registry: %v", err)
	}
}
