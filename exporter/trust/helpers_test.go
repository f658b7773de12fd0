package trust

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/gantry-build/gantry/internal/need"
)

// TestMain takes the system's authorities away: every test then also shows
// that a machine without any is served.
func TestMain(m *testing.M) {
	for k, v := range map[string]string{"SSL_CERT_FILE": "/nonexistent", "SSL_CERT_DIR": "/nonexistent", "NO_PROXY": "*"} {
		if err := os.Setenv(k, v); err != nil {
			log.Fatal(err)
		}
	}
	os.Exit(m.Run())
}

func store(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	if o.CertDirs == nil {
		o.CertDirs = []string{}
	}
	return New(o)
}

// serve answers on addr ("127.0.0.1:0" for any port); cert nil is plain HTTP.
func serve(t *testing.T, addr string, conf *tls.Config, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if conf == nil {
		s.Start()
	} else {
		s.TLS = conf
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

func with(certs ...tls.Certificate) *tls.Config { return &tls.Config{Certificates: certs} }

func host(s *httptest.Server) string { return s.Listener.Addr().String() }

func ok(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "served %s", r.URL.Path) }

func only(t *testing.T, s *Store, host string) docker.RegistryHost {
	t.Helper()
	hosts, err := s.Hosts(host)
	if err != nil {
		t.Fatal(err)
	}
	if len(hosts) != 1 {
		t.Fatalf("%d hosts for %s, want 1", len(hosts), host)
	}
	return hosts[0]
}

func get(h docker.RegistryHost) error {
	resp, err := h.Client.Get(h.Scheme + "://" + h.Host + h.Path + "/")
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

func wantError(t *testing.T, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", wants)
	}
	for _, w := range wants {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is missing in: %v", w, err)
		}
	}
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ownRegistry leaves what gantry's registry does: its authority, and a certificate for its names.
func ownRegistry(t *testing.T, s *Store, ca *testCA, names ...string) {
	t.Helper()
	put(t, s.registryCA(), encode(ca.cert))
	leaf := ca.leaf(time.Hour, names...)
	put(t, s.registryServer(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
}

func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	need.Miss(t, "this machine has only loopback addresses")
	return ""
}
