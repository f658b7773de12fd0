package trust

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	resolverconfig "github.com/moby/buildkit/util/resolver/config"
)

func TestClientCertificateAndDockersDirectory(t *testing.T) {
	ca := newCA(t)
	conf := with(ca.leaf(time.Hour, "127.0.0.1"))
	conf.ClientAuth = tls.RequireAndVerifyClientCert
	conf.ClientCAs = x509.NewCertPool()
	conf.ClientCAs.AddCert(ca.cert)
	srv := serve(t, "127.0.0.1:0", conf, http.HandlerFunc(ok))
	etc := t.TempDir()
	s := store(t, Options{CertDirs: []string{etc}})
	dir := filepath.Join(etc, host(srv))
	put(t, filepath.Join(dir, "ca.crt"), encode(ca.cert))
	if err := get(only(t, s, host(srv))); err == nil {
		t.Fatal("the server took us without a certificate")
	}
	mine := ca.leaf(time.Hour, "me")
	put(t, filepath.Join(dir, "client.cert"), encode(mine.Leaf))
	_, err := s.Hosts(host(srv))
	wantError(t, err, "client.cert", "needs its key", "client.key")
	put(t, filepath.Join(dir, "client.key"), keyPEM(t, mine))
	if err := get(only(t, s, host(srv))); err != nil {
		t.Error(err)
	}
}

func TestUnusableFilesAreNamed(t *testing.T) {
	s := store(t, Options{})
	put(t, filepath.Join(s.o.Root, certsDir, "a.lan:5000", "x.crt"), []byte("nothing"))
	_, err := s.Hosts("a.lan:5000")
	wantError(t, err, "a.lan:5000", "x.crt", "replace or remove")
	if _, err := s.Hosts("b.lan:5000"); err != nil {
		t.Errorf("another host suffers: %v", err)
	}
	put(t, filepath.Join(s.o.Root, stateFile), []byte("{"))
	_, err = s.Hosts("b.lan:5000")
	wantError(t, err, stateFile, "correct or remove")
	wantError(t, s.AllowHTTP("b.lan:5000"), stateFile)
}

func TestAllowHTTP(t *testing.T) {
	s := store(t, Options{})
	if h := only(t, s, "reg.lan:5000"); h.Scheme != "https" {
		t.Errorf("unknown host: %s", h.Scheme)
	}
	if err := s.AllowHTTP("http://Reg.LAN:5000/"); err != nil {
		t.Fatal(err)
	}
	other := store(t, Options{Root: s.o.Root})
	for _, st := range []*Store{s, other} {
		if h := only(t, st, "reg.lan:5000"); h.Scheme != "http" {
			t.Errorf("after AllowHTTP: %s", h.Scheme)
		}
	}
	text, err := os.ReadFile(filepath.Join(s.o.Root, stateFile))
	if err != nil || strings.Join(strings.Fields(string(text)), "") != `{"registries":{"reg.lan:5000":{"http":true}}}` {
		t.Errorf("%s, %v", text, err)
	}
	if err := s.TrustCA("reg.lan:5000", encode(newCA(t).cert)); err != nil {
		t.Fatal(err)
	}
	if h := only(t, other, "reg.lan:5000"); h.Scheme != "https" {
		t.Errorf("after TrustCA: %s", h.Scheme)
	}
}

func TestAllowHTTPOnARealAddress(t *testing.T) {
	addr := outside(t)
	srv := serve(t, net.JoinHostPort(addr, "0"), nil, http.HandlerFunc(ok))
	s := store(t, Options{})
	h := only(t, s, host(srv))
	wantError(t, get(h), "plain HTTP", "--registry-http "+host(srv))
	if err := s.AllowHTTP(host(srv)); err != nil {
		t.Fatal(err)
	}
	if err := get(h); err != nil {
		t.Errorf("the client from before: %v", err)
	}
}

func TestConcurrentWriters(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := New(Options{Root: root}).AllowHTTP(fmt.Sprintf("r%d.lan", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	marks, err := New(Options{Root: root}).marks()
	if err != nil || len(marks) != 20 {
		t.Errorf("%d of 20 writes are kept, %v", len(marks), err)
	}
}

func TestRefusedHosts(t *testing.T) {
	s := store(t, Options{})
	for _, bad := range []string{"", "..", "a/b", "../x", "u@h", "a b", "::1", "http://"} {
		wantError(t, s.AllowHTTP(bad), "no registry host")
		wantError(t, s.TrustCA(bad, nil), "no registry host")
	}
	wantError(t, s.TrustCA("x.lan", []byte("hello")), "no PEM certificate")
	wantError(t, s.TrustCA("x.lan", keyPEM(t, newCA(t).leaf(time.Hour))), "PRIVATE KEY")
}

func TestStaticConfiguration(t *testing.T) {
	yes, no := true, false
	s := store(t, Options{Static: map[string]resolverconfig.RegistryConfig{
		"docker.io":       {Mirrors: []string{"mirror.lan:5000/hub"}},
		"mirror.lan:5000": {PlainHTTP: &yes},
		"127.0.0.1:9":     {PlainHTTP: &no},
	}})
	hosts, err := s.Hosts("docker.io")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range hosts {
		got = append(got, h.Scheme+"://"+h.Host+h.Path)
	}
	if want := "http://mirror.lan:5000/v2/hub https://registry-1.docker.io/v2"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if !hosts[1].Capabilities.Has(docker.HostCapabilityPush|docker.HostCapabilityReferrers) ||
		hosts[0].Capabilities.Has(docker.HostCapabilityPush) {
		t.Errorf("capabilities %v and %v", hosts[0].Capabilities, hosts[1].Capabilities)
	}
	if h := only(t, s, "127.0.0.1:9"); h.Scheme != "https" {
		t.Errorf("http = false is not obeyed on loopback: %s", h.Scheme)
	}
}
