// Package pki gives the registry a certificate without a ceremony: a private
// authority made once, and a server certificate for every name and address
// under which this host can be reached, made again when these change or its
// end comes near. Other machines trust the authority, never the server
// certificate, so they need to be told only once.
//
// Words: the authority is ca.crt and ca.key; the server file, server.pem,
// holds key, certificate and authority together so that one rename replaces
// all of them.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/gantry-build/gantry/internal/state"
)

const (
	caFile     = "ca.crt"
	caKeyFile  = "ca.key"
	serverFile = "server.pem"
	lockFile   = ".lock"

	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 365 * 24 * time.Hour
	renewAhead = 30 * 24 * time.Hour
	// backdate lets a client whose clock is a little behind use a certificate
	// that was made this minute.
	backdate = time.Hour
	// lookAgain is how long a handshake relies on the last look at the host's
	// addresses and at the clock.
	lookAgain = time.Minute
)

// Options say where the authority lives and what else than the host's own
// names the server certificate is for.
type Options struct {
	// Dir holds the files; it is made when missing.
	Dir string
	// Hosts are further DNS names and addresses; a port is ignored.
	Hosts []string
	// Local lists the names and addresses of this host; nil asks the system.
	Local func() []string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log hears of new certificates; nil is slog.Default.
	Log *slog.Logger
}

// Authority is the opened pair of authority and server certificate. Its
// methods may be called from any goroutine.
type Authority struct {
	o     Options
	extra []string

	mu     sync.Mutex
	ca     *x509.Certificate
	server *tls.Certificate
	looked time.Time
}

// Open loads what Dir holds and makes what is missing, out of date or for
// other names. Processes that open one Dir at once wait for each other and end
// with the same authority. An authority whose key is lost is an error: making
// another one silently would lock out every machine that trusts the first.
func Open(o Options) (*Authority, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Local == nil {
		o.Local = localNames
	}
	extra, err := cleanHosts(o.Hosts)
	if err != nil {
		return nil, err
	}
	if err := state.Private(o.Dir); err != nil {
		return nil, fmt.Errorf("making the certificate directory: %w", err)
	}
	a := &Authority{o: o, extra: extra}
	return a, a.refresh()
}

// CAPath is the file that other machines are to trust.
func (a *Authority) CAPath() string { return filepath.Join(a.o.Dir, caFile) }

// Fingerprint is "sha256:" and the hex digest of the authority's DER form,
// what a person compares before trusting it.
func (a *Authority) Fingerprint() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := sha256.Sum256(a.ca.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// GetCertificate is for tls.Config: a server that runs for a year, or whose
// host gets a new address, goes on with a fitting certificate. When a new one
// cannot be made the last one is served and the reason is logged.
func (a *Authority) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if since := a.o.Now().Sub(a.looked); since >= lookAgain || since < 0 {
		if err := a.refreshLocked(); err != nil {
			a.o.Log.Error("renewing the registry's certificate", "err", err)
		}
	}
	return a.server, nil
}

func (a *Authority) refresh() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refreshLocked()
}

func (a *Authority) refreshLocked() error {
	now := a.o.Now()
	a.looked = now
	wanted := merge(a.o.Local(), a.extra)
	if a.server != nil && a.fits(a.server, a.ca, wanted, now) {
		return nil
	}
	unlock, err := state.Lock(filepath.Join(a.o.Dir, lockFile))
	if err != nil {
		return err
	}
	defer unlock()
	ca, key, err := a.loadOrMakeCA(wanted, now)
	if err != nil {
		return err
	}
	server, err := a.loadOrMakeServer(ca, key, wanted, now)
	if err != nil {
		return err
	}
	a.ca, a.server = ca, server
	return nil
}

func (a *Authority) loadOrMakeCA(wanted []string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	ca, key, err := loadCA(a.o.Dir)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case ca == nil:
	case !now.Add(renewAhead).Before(ca.NotAfter):
		a.o.Log.Warn("the registry's authority ends; making a new one, which other machines have to trust again",
			"end", ca.NotAfter)
		key = nil
	case !ca.PermittedDNSDomainsCritical:
		// One of an earlier version. The key stays, so machines that trust that one trust this one's servers.
		a.o.Log.Info("the registry's authority is limited to the registry's names from now on; its fingerprint has changed")
	case !permitsAll(ca, wanted):
		a.o.Log.Warn("the registry has names that its authority could not sign for; making its certificate anew, which other machines "+
			"have to trust again",
			"names", wanted)
		wanted = merge(wanted, ca.PermittedDNSDomains)
	default:
		return ca, key, nil
	}
	return makeCA(a.o.Dir, key, wanted, now)
}

func (a *Authority) loadOrMakeServer(
	ca *x509.Certificate, key *ecdsa.PrivateKey, wanted []string, now time.Time,
) (*tls.Certificate, error) {
	path := filepath.Join(a.o.Dir, serverFile)
	// Whatever is wrong with the file (absent, of another authority, cut short
	// by hand), a new one from the authority is the right answer.
	if server, err := loadServer(path); err == nil && a.fits(server, ca, wanted, now) {
		return server, nil
	}
	pem, err := makeServer(ca, key, wanted, now)
	if err != nil {
		return nil, err
	}
	if err := state.Write(path, pem, 0o600); err != nil {
		return nil, err
	}
	a.o.Log.Debug("made a server certificate for the registry", "names", wanted)
	return loadServer(path)
}

func (a *Authority) fits(server *tls.Certificate, ca *x509.Certificate, wanted []string, now time.Time) bool {
	leaf := server.Leaf
	end := leaf.NotAfter.Add(-renewAhead)
	return leaf.CheckSignatureFrom(ca) == nil && len(server.Certificate) == 2 && bytes.Equal(server.Certificate[1], ca.Raw) &&
		!now.Before(leaf.NotBefore) && now.Before(end) && sameNames(leaf, wanted)
}
