package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
)

// publicServers answer when the host's configuration names no server that a container can reach.
var publicServers = [...]string{"8.8.8.8", "1.1.1.1"}

// Resolver is what a container's owner asked for in place of the host's name servers, search domains or options.
// Empty parts come from the host. A single search domain "." means none.
type Resolver struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// ResolvConf returns the resolv.conf of a container, made of the host's: see Resolver.Conf.
func ResolvConf(host []byte) []byte { return Resolver{}.Conf(host) }

// Conf returns a container's resolv.conf, made of the host's and of what r overrides. It keeps the host's search
// domains and options, and drops name servers that a container cannot reach: the host's loopback, and IPv6 ones,
// since this network has no IPv6. When none is left, public servers take their place. It is a pure function.
func (r Resolver) Conf(host []byte) []byte {
	var out, servers bytes.Buffer
	for line := range strings.Lines(string(host)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0][0] == '#' || words[0][0] == ';' {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil && reachable(a) {
				fmt.Fprintf(&servers, "nameserver %s\n", a)
			}
		case "search", "domain":
			if len(r.Search) == 0 {
				out.WriteString(strings.Join(words, " ") + "\n")
			}
		case "options":
			if len(r.Options) == 0 {
				out.WriteString(strings.Join(words, " ") + "\n")
			}
		default:
			out.WriteString(strings.Join(words, " ") + "\n")
		}
	}
	return append(r.servers(servers.Bytes()), r.overrides(out.Bytes())...)
}

func reachable(a netip.Addr) bool { return a.Is4() && !a.IsLoopback() && !a.IsUnspecified() }

func (r Resolver) servers(host []byte) []byte {
	var out []byte
	for _, s := range r.Servers {
		out = fmt.Appendf(out, "nameserver %s\n", s)
	}
	if len(out) > 0 {
		return out
	}
	if len(host) > 0 {
		return host
	}
	for _, s := range publicServers {
		out = fmt.Appendf(out, "nameserver %s\n", s)
	}
	return out
}

func (r Resolver) overrides(out []byte) []byte {
	if len(r.Search) > 0 && (len(r.Search) != 1 || r.Search[0] != ".") {
		out = fmt.Appendf(out, "search %s\n", strings.Join(r.Search, " "))
	}
	if len(r.Options) > 0 {
		out = fmt.Appendf(out, "options %s\n", strings.Join(r.Options, " "))
	}
	return out
}

// HostResolvConf reads the host's resolv.conf. When that only names a stub on the host's loopback, as with
// systemd-resolved, it reads the file with the servers behind the stub instead. A host without either has an empty one.
func HostResolvConf() ([]byte, error) {
	return hostResolvConf("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
}

// HostServers are the name servers that the host itself asks, those on its loopback included; public ones where it
// names none.
func HostServers() (servers []netip.Addr, err error) {
	conf, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the host's name servers: %w", err)
	}
	for line := range strings.Lines(string(conf)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			if a, err := netip.ParseAddr(words[1]); err == nil {
				servers = append(servers, a)
			}
		}
	}
	if len(servers) == 0 {
		for _, s := range publicServers {
			servers = append(servers, netip.MustParseAddr(s))
		}
	}
	return servers, nil
}

func hostResolvConf(main, behindStub string) ([]byte, error) {
	conf, err := os.ReadFile(main)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the host's name servers: %w", err)
	}
	if !onlyLoopback(conf) {
		return conf, nil
	}
	if servers, err := os.ReadFile(behindStub); err == nil {
		return servers, nil
	}
	return conf, nil
}

// onlyLoopback says whether a configuration names servers, and all of them on loopback.
func onlyLoopback(conf []byte) bool {
	found := false
	for line := range strings.Lines(string(conf)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil && !a.IsLoopback() {
			return false
		}
		found = true
	}
	return found
}
