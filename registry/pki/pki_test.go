package pki

import (
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, o Options) *Authority {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func leaf(t *testing.T, a *Authority) *x509.Certificate {
	t.Helper()
	c, err := a.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func TestCertificateIsForTheHostAndSignedByTheAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	a := open(t, Options{Dir: dir, Hosts: []string{"Registry.LAN:5000", "[fd00::7]:5000"}})
	ca, err := os.ReadFile(a.CAPath())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	l := leaf(t, a)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"localhost", "127.0.0.1", "::1", "registry.lan", "fd00::7", strings.ToLower(host)},
		interfaceAddrs()...) {
		if _, err := l.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for file, want := range map[string]os.FileMode{caFile: 0o644, caKeyFile: 0o600, serverFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", file, info.Mode(), err, want)
		}
	}
	c, _ := a.GetCertificate(nil)
	if len(c.Certificate) != 2 {
		t.Errorf("the server sends %d certificates, want its own and the authority", len(c.Certificate))
	}
}

func TestConcurrentFirstStartsAgree(t *testing.T) {
	dir := t.TempDir()
	prints := make([]string, 10)
	serials := make([]string, 10)
	var wg sync.WaitGroup
	for i := range prints {
		wg.Go(func() {
			a, err := Open(Options{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			prints[i], serials[i] = a.Fingerprint(), a.server.Leaf.SerialNumber.String()
		})
	}
	wg.Wait()
	for i := range prints {
		if prints[i] == "" || prints[i] != prints[0] || serials[i] != serials[0] {
			t.Fatalf("opener %d got %s/%s, opener 0 %s/%s", i, prints[i], serials[i], prints[0], serials[0])
		}
	}
}

func TestServerCertificateFollowsTheHostAndTheClock(t *testing.T) {
	now := time.Now()
	names := []string{"localhost", "10.0.0.1"}
	o := Options{Dir: t.TempDir(), Now: func() time.Time { return now }, Local: func() []string { return names }}
	a := open(t, o)
	first, print := leaf(t, a), a.Fingerprint()
	if again := leaf(t, open(t, o)); again.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("a restart made a new certificate though nothing had changed")
	}
	names = []string{"localhost", "10.0.0.2"}
	if leaf(t, a).SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("a handshake looked again before its time")
	}
	now = now.Add(2 * time.Minute)
	moved := leaf(t, a)
	if err := moved.VerifyHostname("10.0.0.2"); err != nil {
		t.Errorf("after the address changed: %v", err)
	}
	now = now.Add(serverLife - renewAhead + time.Hour)
	if renewed := leaf(t, a); !renewed.NotAfter.After(moved.NotAfter) {
		t.Error("not renewed within 30 days of its end")
	}
	if a.Fingerprint() != print {
		t.Error("the authority changed on the way")
	}
	now = now.Add(caLife)
	if leaf(t, a); a.Fingerprint() == print {
		t.Error("an authority past its end is still in use")
	}
}

func TestBrokenState(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(dir string) error
		want string // in the error; empty when Open must repair by itself
	}{
		"key without certificate": {func(d string) error { return os.Remove(filepath.Join(d, caFile)) }, ""},
		"cut server file":         {func(d string) error { return os.Truncate(filepath.Join(d, serverFile), 100) }, ""},
		"no server file":          {func(d string) error { return os.Remove(filepath.Join(d, serverFile)) }, ""},
		"certificate without key": {func(d string) error { return os.Remove(filepath.Join(d, caKeyFile)) }, "restore ca.key"},
		"cut key":                 {func(d string) error { return os.Truncate(filepath.Join(d, caKeyFile), 20) }, "restore ca.key"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, Options{Dir: dir})
			if err := c.harm(dir); err != nil {
				t.Fatal(err)
			}
			a, err := Open(Options{Dir: dir})
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "":
				if err := leaf(t, a).VerifyHostname("localhost"); err != nil {
					t.Fatal(err)
				}
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestHostForms(t *testing.T) {
	got := merge(hostForms("Box", "127.0.1.1 box.example.org box # us\n10.0.0.9 other.example.org other\n"))
	want := "box box.example.org box.local"
	if strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestRefusedNames(t *testing.T) {
	for _, bad := range []string{"http://x", "a b", "", "-x", "a..b"} {
		if _, err := Open(Options{Dir: t.TempDir(), Hosts: []string{bad}}); err == nil {
			t.Errorf("%q was taken for a name", bad)
		}
	}
}
