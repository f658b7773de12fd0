package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	resolverconfig "github.com/moby/buildkit/util/resolver/config"
)

// configs merges the sources for host and for its mirrors. The stamp changes
// whenever the result could.
func (s *Store) configs(host string) (map[string]resolverconfig.RegistryConfig, string, error) {
	marks, err := s.marks()
	if err != nil {
		return nil, "", err
	}
	var stamp strings.Builder
	out := map[string]resolverconfig.RegistryConfig{}
	out[host] = s.config(host, marks, &stamp)
	for _, m := range out[host].Mirrors {
		if h := mirrorHost(m); h != host {
			out[h] = s.config(h, marks, &stamp)
		}
	}
	return out, stamp.String(), nil
}

func (s *Store) config(host string, marks map[string]mark, stamp *strings.Builder) resolverconfig.RegistryConfig {
	c := s.static[strings.ToLower(host)]
	c.RootCAs = slices.Clone(c.RootCAs)
	c.KeyPairs = slices.Clone(c.KeyPairs)
	if s.isOwnRegistry(host) {
		c.RootCAs = append(c.RootCAs, s.registryCA())
	}
	stampFile(stamp, s.registryServer())
	dirs := []string{filepath.Join(s.o.Root, certsDir)}
	if s.o.Shared != "" {
		dirs = append(dirs, filepath.Join(s.o.Shared, certsDir))
	}
	for _, dir := range append(dirs, s.o.CertDirs...) {
		addDir(&c, filepath.Join(dir, strings.ToLower(host)))
	}
	for _, dir := range c.TLSConfigDir {
		addDir(&c, dir)
	}
	c.TLSConfigDir = nil
	c.PlainHTTP = s.plainHTTP(host, c, marks)
	fmt.Fprintf(stamp, "%s http=%s\n", host, show(c.PlainHTTP))
	for _, f := range c.RootCAs {
		stampFile(stamp, f)
	}
	for _, p := range c.KeyPairs {
		stampFile(stamp, p.Certificate)
		stampFile(stamp, p.Key)
	}
	return c
}

// plainHTTP decides the scheme. A loopback host of which nothing is known gets
// what it speaks; BuildKit alone would never try HTTPS there
// (util/resolver/resolver.go, v0.34.2), and gantry's own registry may speak it.
func (s *Store) plainHTTP(host string, c resolverconfig.RegistryConfig, marks map[string]mark) *bool {
	yes := true
	if marks[strings.ToLower(host)].HTTP {
		return &yes
	}
	if c.PlainHTTP != nil || (c.Insecure != nil && *c.Insecure) {
		return c.PlainHTTP
	}
	if local, err := docker.MatchLocalhost(host); err != nil || !local {
		return nil
	}
	plain := s.speaksPlain(host)
	return &plain
}

func show(b *bool) string {
	if b == nil {
		return "unset"
	}
	return fmt.Sprint(*b)
}

// addDir takes a directory as Docker lays it out: *.crt are authorities, a
// *.cert with the *.key beside it is a client certificate.
func addDir(c *resolverconfig.RegistryConfig, dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return // most hosts have no directory, and some are not for our eyes
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		switch filepath.Ext(f.Name()) {
		case ".crt":
			c.RootCAs = append(c.RootCAs, path)
		case ".cert":
			key := strings.TrimSuffix(path, ".cert") + ".key"
			c.KeyPairs = append(c.KeyPairs, resolverconfig.TLSKeyPair{Certificate: path, Key: key})
		}
	}
}

func stampFile(out *strings.Builder, path string) {
	info, err := os.Stat(path)
	if err != nil {
		fmt.Fprintf(out, "%s absent\n", path)
		return
	}
	var ino uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		ino = st.Ino
	}
	fmt.Fprintf(out, "%s %d %d %d\n", path, info.ModTime().UnixNano(), info.Size(), ino)
}

// usable leaves out what this user may not read (an unprivileged daemon beside
// root's /etc/docker) and a broken file of our own registry, which must not
// stop traffic with all others. Anything else that is wrong is an error.
func (s *Store) usable(c resolverconfig.RegistryConfig) (resolverconfig.RegistryConfig, error) {
	var cas []string
	for _, f := range c.RootCAs {
		err := checkCA(f)
		if err != nil && f != s.registryCA() && !errors.Is(err, fs.ErrPermission) {
			return c, err
		}
		if err != nil {
			s.o.Log.Warn("leaving out an authority", "err", err)
			continue
		}
		cas = append(cas, f)
	}
	var pairs []resolverconfig.TLSKeyPair
	for _, p := range c.KeyPairs {
		err := errors.Join(readable(p.Certificate), readable(p.Key))
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return c, fmt.Errorf("client certificate %s needs its key as %s: %w", p.Certificate, p.Key, err)
		}
		if err != nil {
			s.o.Log.Warn("leaving out a client certificate", "err", err)
			continue
		}
		pairs = append(pairs, p)
	}
	c.RootCAs, c.KeyPairs = cas, pairs
	return c, nil
}

// checkCA exists because crypto/x509 skips over text that is no certificate
// and the user would be told of an unknown authority.
func checkCA(path string) error {
	pem, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading an authority: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no PEM certificate; replace or remove it", path)
	}
	return nil
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
