// Package registry is the registry that gantry carries: distribution's HTTP
// application over a directory, behind a listener that is ours, so that a
// machine without any other software can hold images for its neighbours.
//
// It refuses to start half: Start returns when requests are answered, or with
// the reason why they never would be. Nothing of it is process-wide, so any
// number of registries run side by side. The protocol is the OCI distribution
// specification; the storage layout is distribution's, which `registry serve`
// of the upstream project reads too.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/gantry-build/gantry/registry/pki"
)

// DefaultAddr is where a registry listens when nothing else is said.
const DefaultAddr = "127.0.0.1:5000"

// closeWithin bounds how long Close waits for transfers under way.
const closeWithin = 5 * time.Second

// Options describe one registry.
type Options struct {
	// Root holds everything: data/ (blobs and manifests), tls/ (authority and
	// certificate), secret (signs the state of uploads).
	Root string
	// Addr is HOST:PORT to listen on; empty means DefaultAddr, port 0 any port.
	Addr string
	// TLS serves HTTPS with a certificate from the registry's own authority.
	TLS bool
	// Htpasswd is a file of USER:HASH lines with bcrypt hashes, as `htpasswd -B` makes them; only these
	// users may read and write. It is read again when it changes.
	Htpasswd string
	// Open lets everybody who reaches Addr read and write, also where that is no loopback address; there,
	// without users, nobody may delete.
	Open bool
	// Hosts are names and addresses that the certificate shall hold besides
	// those of this host.
	Hosts []string
	// Log gets the registry's messages; nil means slog.Default.
	Log *slog.Logger
}

// Server is a running registry. Its methods may be called from any goroutine.
type Server struct {
	listener net.Listener
	http     *http.Server
	app      *app
	pki      *pki.Authority
	log      *slog.Logger

	stop    context.CancelFunc
	workers sync.WaitGroup
	closing sync.Once
	done    chan struct{}
	err     error // set before done is closed
}

// Start makes what is missing under o.Root, listens and serves. The registry
// ends with Close or with ctx. Errors name the path or the address and what to
// change: an unwritable or full root, a port that is taken (and by whom, where
// the system tells), an authority without its key.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Addr == "" {
		o.Addr = DefaultAddr
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := o.checkAccess(); err != nil {
		return nil, err
	}
	if err := prepareRoot(o.Root); err != nil {
		return nil, err
	}
	s := &Server{log: o.Log, done: make(chan struct{})}
	if err := s.listen(o); err != nil {
		return nil, err
	}
	base := withLogger(context.WithoutCancel(ctx), o.Log)
	a, err := newApp(base, o)
	if err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	s.app = a
	s.serve(ctx, base, o)
	return s, nil
}

// listen takes the port before anything is made for TLS: of two registries
// started for one address only one gets to touch the certificates.
func (s *Server) listen(o Options) error {
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return explainListen(o.Addr, err)
	}
	s.listener = l
	if !o.TLS {
		return nil
	}
	s.pki, err = pki.Open(pki.Options{
		Dir:   filepath.Join(o.Root, "tls"),
		Hosts: append(addrHost(o.Addr), o.Hosts...),
		Log:   o.Log,
	})
	if err != nil {
		return errors.Join(explainWrite(o.Root, err), l.Close())
	}
	s.listener = tls.NewListener(l, &tls.Config{
		GetCertificate: s.pki.GetCertificate,
		MinVersion:     tls.VersionTLS12,
		// No h2: its flow control holds uploads back (golang/go#14077), and
		// registry clients open several connections anyway.
		NextProtos: []string{"http/1.1"},
	})
	return nil
}

// addrHost is the name in HOST:PORT, where there is one: who binds to a name
// means to be reached by it.
func addrHost(addr string) []string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return nil
	}
	return []string{host}
}

func (s *Server) serve(ctx, base context.Context, o Options) {
	var early fresh
	s.http = &http.Server{
		ConnState:         early.track,
		Handler:           refuseWhenFull(o.Root, s.app),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          httpErrorLog(o.Log),
	}
	s.http.RegisterOnShutdown(early.hangUp)
	work, stop := context.WithCancel(base)
	s.stop = stop
	s.workers.Go(func() { purgeLoop(work, filepath.Join(o.Root, dataDir), o.Log) })
	s.workers.Go(func() {
		select {
		case <-ctx.Done():
			s.shutdown()
		case <-work.Done():
		}
	})
	go s.run()
}

// run owns the end: whoever waits on done finds the port free, the workers
// gone and err final.
func (s *Server) run() {
	err := s.http.Serve(s.listener)
	if !errors.Is(err, http.ErrServerClosed) {
		s.err = fmt.Errorf("serving the registry on %s: %w", s.Addr(), err)
	}
	s.shutdown()
	s.stop()
	s.workers.Wait()
	close(s.done)
}

// shutdown lets transfers end for a while, then cuts them. Every caller
// returns only after the first one is through.
func (s *Server) shutdown() {
	s.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			s.log.Warn("closing the registry cuts transfers under way", "addr", s.Addr(), "err", err)
			if err := s.http.Close(); err != nil {
				s.log.Debug("closing the registry's connections", "err", err)
			}
		}
		if err := s.app.Shutdown(); err != nil {
			s.log.Warn("closing the registry's storage", "err", err)
		}
	})
}

// Addr is the address that the registry listens on, with the real port when
// port 0 was asked for.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// CA tells where the authority's certificate lies and its "sha256:..."
// fingerprint; both are empty when the registry speaks plain HTTP.
func (s *Server) CA() (path, fingerprint string) {
	if s.pki == nil {
		return "", ""
	}
	return s.pki.CAPath(), s.pki.Fingerprint()
}

// Hosts are the names and addresses of its certificate, each HOST:PORT, by which other machines may reach it; none without TLS.
func (s *Server) Hosts() (all []string) {
	if s.pki == nil {
		return nil
	}
	cert, err := s.pki.GetCertificate(nil)
	if err != nil || cert.Leaf == nil {
		return nil
	}
	_, port, _ := net.SplitHostPort(s.Addr().String())
	for _, name := range cert.Leaf.DNSNames {
		if name != "localhost" {
			all = append(all, net.JoinHostPort(name, port))
		}
	}
	for _, ip := range cert.Leaf.IPAddresses {
		if !ip.IsLoopback() {
			all = append(all, net.JoinHostPort(ip.String(), port))
		}
	}
	return all
}

// Wait blocks until the registry has ended. It returns nil after Close or the
// end of Start's context, else what made the listener fail.
func (s *Server) Wait() error {
	<-s.done
	return s.err
}

// Close stops listening, gives transfers under way five seconds to end and
// returns when nothing of the registry runs any more. Calling it again is
// harmless.
func (s *Server) Close() error {
	s.shutdown()
	return s.Wait()
}
