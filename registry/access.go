package registry

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// checkAccess refuses to serve strangers unless that is meant.
func (o Options) checkAccess() error {
	if o.Htpasswd != "" {
		return checkHtpasswd(o.Htpasswd)
	}
	if o.Open || isLoopback(o.Addr) {
		return nil
	}
	if _, _, err := net.SplitHostPort(o.Addr); err != nil {
		return nil // listening says what is wrong
	}
	return fmt.Errorf("registry on %s: other machines could read and write every image; give it users with --htpasswd FILE "+
		"(htpasswd -Bc FILE USER makes one), or say --open when everybody may", o.Addr)
}

// isLoopback tells whether only this machine reaches HOST:PORT.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return false
	}
	ips := []net.IP{net.ParseIP(host)}
	if ips[0] == nil {
		if ips, err = net.LookupIP(host); err != nil {
			return false
		}
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return false
		}
	}
	return len(ips) > 0
}

// checkHtpasswd exists because distribution makes a user of its own for a file that is not there, and
// lets no one in whose hash it does not know (registry/auth/htpasswd, v3.1.2).
func checkHtpasswd(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("password file %s does not exist; make it with: htpasswd -Bc %s USER", path, path)
	}
	if err != nil {
		return fmt.Errorf("password file: %w", err)
	}
	users, n := 0, 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || user == "" {
			return fmt.Errorf("%s:%d: want USER:HASH with a bcrypt hash; make it with: htpasswd -B %s USER", path, n, path)
		}
		users++
	}
	if users == 0 {
		return fmt.Errorf("password file %s names no user; add one with: htpasswd -B %s USER", path, path)
	}
	return nil
}
