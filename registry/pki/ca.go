package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gantry-build/gantry/internal/state"
)

// loadCA returns nil without an error when there is no authority yet. A key
// without a certificate is the trace of a start that was cut off between the
// two writes of makeCA; nobody can trust it yet, so it counts as nothing.
func loadCA(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	path := filepath.Join(dir, caFile)
	cert, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the registry's authority: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, nil, brokenCA(dir, err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, brokenCA(dir, err)
	}
	ec, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, nil, brokenCA(dir, errors.New("not an ECDSA authority"))
	}
	return pair.Leaf, ec, nil
}

func brokenCA(dir string, err error) error {
	return fmt.Errorf("the registry's authority %s has no usable key beside it; restore %s, or remove both to start a new authority: %w",
		filepath.Join(dir, caFile), caKeyFile, err)
}

// makeCA makes an authority that can sign for names only: what it signs for another host is refused by
// every client, whoever gets hold of its key. A nil key is made, too.
func makeCA(dir string, key *ecdsa.PrivateKey, names []string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unnamed"
	}
	tmpl, err := template(now, caLife)
	if err != nil {
		return nil, nil, err
	}
	tmpl.Subject = pkix.Name{CommonName: fmt.Sprintf("gantry registry CA (%s)", host)}
	tmpl.IsCA = true
	tmpl.BasicConstraintsValid = true
	tmpl.MaxPathLenZero = true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	constrain(tmpl, names)
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, fmt.Errorf("making the authority's key: %w", err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the authority: %w", err)
	}
	if err := storeCA(dir, der, key); err != nil {
		return nil, nil, err
	}
	return loadCA(dir)
}

// storeCA writes the certificate last and removes an older one first, so that
// at no moment a certificate lies beside another one's key.
func storeCA(dir string, der []byte, key *ecdsa.PrivateKey) error {
	path := filepath.Join(dir, caFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing the authority: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := state.Write(filepath.Join(dir, caKeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	return state.Write(path, encodeCert(der), 0o644)
}

func loadServer(path string) (*tls.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the server certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &pair, nil
}

// makeServer returns key, certificate and authority in one PEM text. The
// authority is sent to clients too: that is where `registry trust` reads it.
func makeServer(ca *x509.Certificate, caKey *ecdsa.PrivateKey, names []string, now time.Time) ([]byte, error) {
	tmpl, err := template(now, serverLife)
	if err != nil {
		return nil, err
	}
	if tmpl.NotAfter.After(ca.NotAfter) {
		tmpl.NotAfter = ca.NotAfter
	}
	tmpl.Subject = pkix.Name{CommonName: "gantry registry"}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the server's key: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, fmt.Errorf("making the server certificate: %w", err)
	}
	out, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return append(append(out, encodeCert(der)...), encodeCert(ca.Raw)...), nil
}

func template(now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return &x509.Certificate{SerialNumber: serial, NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
