package trust

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestLoopbackPlainHTTPNeedsNoConfiguration(t *testing.T) {
	srv := serve(t, "127.0.0.1:0", nil, http.HandlerFunc(ok))
	_, port, _ := net.SplitHostPort(host(srv))
	s := store(t, Options{})
	for _, h := range []string{host(srv), "localhost:" + port} {
		if err := get(only(t, s, h)); err != nil {
			t.Errorf("%s: %v", h, err)
		}
	}
}

func TestTrustedAuthorityCountsForClientsThatExist(t *testing.T) {
	ca := newCA(t)
	srv := serve(t, "127.0.0.1:0", with(ca.leaf(time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	s := store(t, Options{})
	h := only(t, s, host(srv))
	wantError(t, get(h), "gantry registry trust "+host(srv))
	pem, print, err := FetchCA(t.Context(), host(srv))
	if err != nil {
		t.Fatal(err)
	}
	if string(pem) != string(encode(ca.cert)) || !strings.HasPrefix(print, "sha256:") || len(print) != 7+64 {
		t.Errorf("fetched another authority, fingerprint %s", print)
	}
	if err := s.TrustCA(host(srv), pem); err != nil {
		t.Fatal(err)
	}
	if err := get(h); err != nil {
		t.Errorf("the client from before: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.o.Root, certsDir)); err != nil {
		t.Fatal(err)
	}
	wantError(t, get(h), "gantry registry trust")
}

func TestOwnRegistrysAuthorityCountsForItsNames(t *testing.T) {
	ca := newCA(t)
	srv := serve(t, "127.0.0.1:0", with(ca.leaf(time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	s := store(t, Options{})
	ownRegistry(t, s, ca, "127.0.0.1")
	if err := get(only(t, s, host(srv))); err != nil {
		t.Error(err)
	}
	ownRegistry(t, s, ca, "registry.lan", "10.0.0.7")
	wantError(t, get(only(t, s, host(srv))), "gantry registry trust")
	ownRegistry(t, s, ca, "127.0.0.1")
	put(t, s.registryCA(), []byte("cut off"))
	wantError(t, get(only(t, s, host(srv))), "gantry registry trust")
}

func TestLoopbackFollowsWhatIsThere(t *testing.T) {
	ca := newCA(t)
	first := serve(t, "127.0.0.1:0", nil, http.HandlerFunc(ok))
	addr := host(first)
	s := store(t, Options{})
	ownRegistry(t, s, ca, "127.0.0.1")
	h := only(t, s, addr)
	if err := get(h); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := get(h); err == nil {
		t.Fatal("a closed registry answers")
	}
	second := serve(t, addr, with(ca.leaf(time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	if err := get(h); err != nil {
		t.Errorf("after a restart with TLS: %v", err)
	}
	second.Close()
	serve(t, addr, nil, http.HandlerFunc(ok))
	if err := get(h); err == nil {
		return
	}
	if err := get(h); err != nil {
		t.Errorf("after a restart without TLS, second try: %v", err)
	}
}

// TestContainerdAndCrane goes through the two clients that gantry has.
func TestContainerdAndCrane(t *testing.T) {
	ca := newCA(t)
	srv := serve(t, "127.0.0.1:0", with(ca.leaf(time.Hour, "127.0.0.1")),
		registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	s := store(t, Options{})
	ownRegistry(t, s, ca, "127.0.0.1")
	img, err := random.Image(100_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host(srv) + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(only(t, s, host(srv)).Client.Transport)); err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r := docker.NewResolver(docker.ResolverOptions{Hosts: s.Hosts})
	_, desc, err := r.Resolve(t.Context(), ref.String())
	if err != nil || desc.Digest.String() != want.String() {
		t.Errorf("resolved %s, %v; want %s", desc.Digest, err, want)
	}
}

// TestTokenServerElsewhere holds that a request which leaves the registry
// keeps its scheme and finds the other host's authority.
func TestTokenServerElsewhere(t *testing.T) {
	reg, auth := newCA(t), newCA(t)
	registrySrv := serve(t, "127.0.0.1:0", with(reg.leaf(time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	authSrv := serve(t, "127.0.0.1:0", with(auth.leaf(time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	s := store(t, Options{})
	if err := s.TrustCA(host(registrySrv), encode(reg.cert)); err != nil {
		t.Fatal(err)
	}
	h := only(t, s, host(registrySrv))
	token := docker.RegistryHost{Client: h.Client, Scheme: "https", Host: host(authSrv), Path: "/token"}
	wantError(t, get(token), "gantry registry trust "+host(authSrv))
	if err := s.TrustCA(host(authSrv), encode(auth.cert)); err != nil {
		t.Fatal(err)
	}
	if err := get(token); err != nil {
		t.Error(err)
	}
}

func TestCancelledRequestsAreNotExplained(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry.invalid/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = only(t, store(t, Options{}), "registry.invalid").Client.Do(req)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "registry registry.invalid:") {
		t.Errorf("got %v", err)
	}
}

// What others share counts beside what this machine believes, until they share something else.
func TestShared(t *testing.T) {
	ca := newCA(t)
	srv := serve(t, "127.0.0.1:0", with(ca.leaf(time.Hour, "127.0.0.1")), http.HandlerFunc(ok))
	s := store(t, Options{Shared: filepath.Join(t.TempDir(), "shared")})
	if err := get(only(t, s, host(srv))); err == nil {
		t.Fatal("an unknown authority is trusted")
	}
	client := only(t, s, host(srv))
	all := map[string]Entry{
		host(srv): {CA: string(encode(ca.cert))}, "plain.lan:5000": {HTTP: true}, "bad/host": {HTTP: true}, "both.lan": {},
	}
	err := s.SetShared(all)
	wantError(t, err, "bad/host", "both.lan")
	if err := get(client); err != nil {
		t.Errorf("the client from before: %v", err)
	}
	if h := only(t, s, "plain.lan:5000"); h.Scheme != "http" {
		t.Errorf("shared plain HTTP: %s", h.Scheme)
	}
	if own, err := s.Own(); err != nil || len(own) != 0 {
		t.Errorf("what others share is taken for this machine's own: %v, %v", own, err)
	}
	if err := s.TrustCA("plain.lan:5000", encode(ca.cert)); err != nil {
		t.Fatal(err)
	}
	if h := only(t, s, "plain.lan:5000"); h.Scheme != "https" {
		t.Errorf("plain HTTP of others wins over an authority of this machine's: %s", h.Scheme)
	}
	if err := s.SetShared(nil); err != nil {
		t.Fatal(err)
	}
	if err := get(client); err == nil {
		t.Error("an authority that is shared no more is trusted")
	}
	if own, err := s.Own(); err != nil || own["plain.lan:5000"].CA == "" {
		t.Errorf("this machine's own are %v, %v", own, err)
	}
}
