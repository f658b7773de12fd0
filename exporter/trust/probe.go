package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	probeWithin = 3 * time.Second
	probeHolds  = 10 * time.Second
)

type probed struct {
	plain bool
	until time.Time
}

// speaksPlain asks a loopback host whether it speaks TLS, by starting a
// handshake. It is asked apart from the request because a request whose
// handshake failed has lost its body. The answer holds for a while, or until a
// request goes wrong (forget).
func (s *Store) speaksPlain(host string) bool {
	s.mu.Lock()
	p, ok := s.probes[host]
	s.mu.Unlock()
	if ok && time.Now().Before(p.until) {
		return p.plain
	}
	plain, sure := probe(host)
	if !sure && ok {
		return p.plain
	}
	if sure {
		s.mu.Lock()
		s.probes[host] = probed{plain: plain, until: time.Now().Add(probeHolds)}
		s.mu.Unlock()
	}
	return plain
}

// forget makes the next request ask again: the registry behind a port may have
// been replaced by one with, or without, TLS.
func (s *Store) forget(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.probes, host)
}

// probe is not sure when nothing answers, or not in time; without an earlier
// answer plain HTTP is then the guess, as everywhere on loopback.
func probe(host string) (plain, sure bool) {
	ctx, cancel := context.WithTimeout(context.Background(), probeWithin)
	defer cancel()
	// Nothing is sent over this connection, so it needs no verification.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", address(host))
	if err == nil {
		// Both ends may have gone away by now; the answer is known.
		_ = conn.Close()
		return false, true
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true, false
	}
	if os.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) {
		return true, false
	}
	return !spokeTLS(err), true
}

// spokeTLS tells a refused handshake (an alert, a version too old) from a
// server that knows nothing of TLS.
func spokeTLS(err error) bool {
	var record tls.RecordHeaderError
	return !errors.As(err, &record) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) &&
		!errors.Is(err, syscall.ECONNRESET)
}
