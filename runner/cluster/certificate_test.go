package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/swarmkit/v2/api"

	"github.com/gantry-build/gantry/runner"
)

// certify writes what a member has of certificates, valid from begin to end.
func certify(t *testing.T, dir string, begin, end time.Time) {
	t.Helper()
	said := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, kind string, der []byte) {
		said(os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	said(os.MkdirAll(dir, 0o700))
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	said(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swarm-ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	said(err)
	write("swarm-root-ca.crt", "CERTIFICATE", caDER)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	said(err)
	node := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: begin, NotAfter: end, DNSNames: []string{"swarm-worker", "node"},
		Subject:     pkix.Name{CommonName: "node", OrganizationalUnit: []string{"swarm-worker"}, Organization: []string{"cluster"}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, node, ca, key.Public(), caKey)
	said(err)
	write("swarm-node.crt", "CERTIFICATE", der)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	said(err)
	write("swarm-node.key", "PRIVATE KEY", raw)
}

// A member whose certificate has ended, or has not begun, by this machine's clock, says which of them it is.
func TestCertificatesOutOfTheirTime(t *testing.T) {
	now := time.Now()
	for want, valid := range map[string][2]time.Time{
		"certificates have expired": {now.AddDate(0, -2, 0), now.AddDate(0, -1, 0)},
		"set this machine's clock":  {now.AddDate(0, 1, 0), now.AddDate(0, 2, 0)},
	} {
		t.Run(want, func(t *testing.T) {
			dir := t.TempDir()
			c := New(Options{
				Root: dir, State: filepath.Join(dir, "s"), Runner: &runner.Manager{}, Log: slog.New(slog.DiscardHandler),
				Describe: func() *api.NodeDescription { return &api.NodeDescription{} },
			})
			t.Cleanup(func() { _ = c.drop() })
			certify(t, filepath.Join(c.nodeDir(), "certificates"), valid[0], valid[1])
			cfg, err := json.Marshal(Config{Listen: "127.0.0.1:0"})
			if err == nil {
				err = os.WriteFile(c.file(), cfg, 0o600)
			}
			if err == nil {
				err = c.Resume()
			}
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				st := c.Status()
				if st.State == Failed {
					if _, err := c.Manager(); !strings.Contains(st.Err.Error(), want) || !strings.Contains(err.Error(), want) {
						t.Errorf("status: %v\nmanager: %v", st.Err, err)
					}
					break
				}
				if time.Now().After(end) {
					t.Fatalf("it is %s", st.State)
				}
			}
		})
	}
}
