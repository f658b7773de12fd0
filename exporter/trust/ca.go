package trust

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/gantry-build/gantry/internal/state"
)

const fetchWithin = 10 * time.Second

// FetchCA asks host, without believing it yet, for the end of its certificate
// chain: the PEM text to give to TrustCA and the "sha256:<hex>" digest of its
// DER form for a person to compare with what the registry's host prints. Where
// the server sends its own certificate only, that is what comes back, and
// trusting it lasts as long as it does. It fails for a host that does not
// answer, speaks no TLS, or sends a chain that trusting its end would not make
// valid.
func FetchCA(ctx context.Context, host string) (ca []byte, fingerprint string, err error) {
	clean, err := cleanHost(host)
	if err != nil {
		return nil, "", err
	}
	chain, err := fetchChain(ctx, address(clean))
	if err != nil {
		return nil, "", Explain(clean, fmt.Errorf("asking %s for its certificate: %w", clean, err))
	}
	last := chain[len(chain)-1]
	if err := leadsTo(chain, last); err != nil {
		return nil, "", Explain(clean, fmt.Errorf("checking the certificates of %s: %w", clean, err))
	}
	sum := sha256.Sum256(last.Raw)
	return encode(last), "sha256:" + hex.EncodeToString(sum[:]), nil
}

func fetchChain(ctx context.Context, addr string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	u := url.URL{Host: addr}
	// Verifying is what the caller's user does, by the fingerprint.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, errors.New("not a TLS connection")
	}
	return t.ConnectionState().PeerCertificates, nil
}

func leadsTo(chain []*x509.Certificate, last *x509.Certificate) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(last)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// TrustCA makes the certificates in pemText authorities for host from the next
// request on. They replace those of an earlier call; files that a person put
// beside them stay. A permission for plain HTTP ends: who trusts an authority
// means to use it. Text that holds anything but certificates is refused.
func (s *Store) TrustCA(host string, pemText []byte) error {
	clean, err := cleanHost(host)
	if err != nil {
		return err
	}
	canonical, err := onlyCerts(pemText)
	if err != nil {
		return fmt.Errorf("trusting %s: %w", clean, err)
	}
	dir := filepath.Join(s.o.Root, certsDir, clean)
	if err := state.Private(dir); err != nil {
		return fmt.Errorf("trusting %s: %w", clean, err)
	}
	if err := state.Write(filepath.Join(dir, "ca.crt"), canonical, 0o644); err != nil {
		return err
	}
	return s.setHTTP(clean, false)
}

func onlyCerts(text []byte) ([]byte, error) {
	var out []byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a %s lies among the certificates; give only certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate: %w", err)
		}
		out = append(out, encode(c)...)
	}
	if out == nil {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return out, nil
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
