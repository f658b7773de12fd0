package pki

import (
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What the authority's key signs for hosts that are not the registry's is worth nothing.
func TestAuthorityIsConstrained(t *testing.T) {
	dir := t.TempDir()
	a := open(t, Options{Dir: dir, Hosts: []string{"registry.lan", "203.0.113.7"},
		Local: func() []string { return []string{"localhost", "pc", "10.0.0.5"} }})
	ca, key, err := loadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.ca)
	for name, allowed := range map[string]bool{
		"registry.lan": true, "localhost": true, "pc": true, "203.0.113.7": true, "192.168.7.9": true, "10.9.9.9": true, "fd00::1": true,
		"docker.io": false, "registry-1.docker.io": false, "lan": false, "xpc": false, "203.0.113.8": false, "2001:db8::1": false,
	} {
		pem, err := makeServer(ca, key, []string{name}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "s.pem")
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			t.Fatal(err)
		}
		server, err := loadServer(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); (err == nil) != allowed {
			t.Errorf("a certificate for %s: %v", name, err)
		}
	}
}

// An authority of an earlier version, or for fewer names, gets a new certificate for the same key: who
// trusts the unconstrained one goes on without a word.
func TestAuthorityIsConstrainedLater(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	local := []string{"localhost", "pc"}
	old, key, err := makeCA(dir, nil, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	old.PermittedDNSDomainsCritical, old.PermittedDNSDomains, old.PermittedIPRanges = false, nil, nil
	tmpl, err := template(now, caLife)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.Subject, tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = old.Subject, true, true, old.KeyUsage
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := storeCA(dir, der, key); err != nil {
		t.Fatal(err)
	}
	before, _, err := loadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := open(t, Options{Dir: dir, Local: func() []string { return local }})
	if !permitsAll(a.ca, local) || !key.PublicKey.Equal(a.ca.PublicKey) {
		t.Errorf("the new authority: %v", a.ca.PermittedDNSDomains)
	}
	trusting := x509.NewCertPool()
	trusting.AddCert(before)
	if _, err := leaf(t, a).Verify(x509.VerifyOptions{Roots: trusting, DNSName: "pc"}); err != nil {
		t.Errorf("a machine that trusts the old one: %v", err)
	}
	first := a.Fingerprint()
	if again := open(t, Options{Dir: dir, Local: func() []string { return local }}); again.Fingerprint() != first {
		t.Error("a second start made another one")
	}
	more := open(t, Options{Dir: dir, Local: func() []string { return local }, Hosts: []string{"new.lan"}})
	if more.Fingerprint() == first || !permitsAll(more.ca, []string{"pc", "new.lan"}) {
		t.Error("the authority does not know its new name")
	}
	if string(more.server.Certificate[1]) != string(more.ca.Raw) {
		t.Error("the server sends another authority")
	}
	if fewer := open(t, Options{Dir: dir, Local: func() []string { return local }}); fewer.Fingerprint() != more.Fingerprint() {
		t.Error("a name less made another authority")
	}
}
