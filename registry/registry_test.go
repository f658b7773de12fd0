package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/sirupsen/logrus"
)

// logs collects what a registry says.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func start(t *testing.T, o Options) (*Server, *logs) {
	t.Helper()
	out := &logs{}
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	o.Log = slog.New(slog.NewTextHandler(out, nil))
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, out
}

// client trusts the registry's authority and nothing else.
func client(t *testing.T, s *Server) http.RoundTripper {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	if path, _ := s.CA(); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		tr.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return tr
}

func twoPlatforms(t *testing.T) v1.ImageIndex {
	t.Helper()
	idx := v1.ImageIndex(empty.Index)
	for _, p := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}} {
		img, err := random.Image(200_000, 3)
		if err != nil {
			t.Fatal(err)
		}
		img, err = mutate.ConfigFile(img, config(t, img, p))
		if err != nil {
			t.Fatal(err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	return idx
}

func config(t *testing.T, img v1.Image, p v1.Platform) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.OS, c.Architecture, c.Variant = p.OS, p.Architecture, p.Variant
	return c
}

// roundTrip pushes an index and reads it back whole.
func roundTrip(t *testing.T, s *Server) {
	t.Helper()
	rt := remote.WithTransport(client(t, s))
	ref, err := name.ParseReference(s.Addr().String() + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	idx := twoPlatforms(t)
	want, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, idx, rt); err != nil {
		t.Fatal(err)
	}
	back, err := remote.Index(ref, rt)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := back.Digest(); err != nil || got != want {
		t.Fatalf("pulled %v, %v; pushed %v", got, err, want)
	}
	if err := validate.Index(back); err != nil {
		t.Fatal(err)
	}
}

func TestIndexOverTLSAndHTTPInOneProcess(t *testing.T) {
	var global logs
	std := logrus.StandardLogger().Out
	logrus.SetOutput(&global)
	defer logrus.SetOutput(std)

	secure, said := start(t, Options{TLS: true})
	plain, plainSaid := start(t, Options{})
	roundTrip(t, secure)
	roundTrip(t, plain)
	if _, print := secure.CA(); !strings.HasPrefix(print, "sha256:") {
		t.Errorf("fingerprint %q", print)
	}
	if path, print := plain.CA(); path != "" || print != "" {
		t.Errorf("a plain registry has an authority: %s %s", path, print)
	}
	if global.String() != "" {
		t.Errorf("distribution wrote to the process's logger (has its context key moved?):\n%s", global.String())
	}
	for _, l := range []*logs{said, plainSaid} {
		if text := l.String(); strings.Contains(text, "WARN") || strings.Contains(text, "ERROR") {
			t.Errorf("a clean push and pull is noisy:\n%s", text)
		}
	}
}

func TestStrangersDoNotTrustIt(t *testing.T) {
	s, said := start(t, Options{TLS: true})
	_, err := http.Get("https://" + s.Addr().String() + "/v2/")
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(said.String(), "ERROR") {
		t.Errorf("a stranger's handshake is logged as our error:\n%s", said)
	}
}

func TestEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Options{Root: t.TempDir(), Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still running 10 s after its context ended")
	}
	if _, err := http.Get("http://" + s.Addr().String() + "/v2/"); err == nil {
		t.Error("the port still answers")
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing what has ended: %v", err)
	}
}

func TestUnusedConnectionsDoNotHoldUpTheEnd(t *testing.T) {
	s, said := start(t, Options{})
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A request on a second connection shows that the first was accepted.
	call(t, s, "GET", "/v2/", nil, nil, 200)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if said.String() != "" { // it says when it has waited in vain
		t.Error(said)
	}
}

func TestContentOutlivesARestart(t *testing.T) {
	root := t.TempDir()
	first, _ := start(t, Options{Root: root, TLS: true})
	roundTrip(t, first)
	_, print := first.CA()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, _ := start(t, Options{Root: root, TLS: true})
	if _, again := second.CA(); again != print {
		t.Errorf("authority %s became %s", print, again)
	}
	ref, err := name.ParseReference(second.Addr().String() + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Index(ref, remote.WithTransport(client(t, second))); err != nil {
		t.Fatal(err)
	}
}
