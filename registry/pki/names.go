package pki

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// localNames lists what a client on this machine or in its networks may type:
// the loopback names, the host name with the full forms that /etc/hosts knows
// and its multicast DNS form, and the address of every interface. It asks no
// name server: a slow one would hold up the start, and an answer that comes
// and goes would make new certificates all the time.
func localNames() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil {
		hosts, _ := os.ReadFile("/etc/hosts")
		names = append(names, hostForms(host, string(hosts))...)
	}
	return append(names, interfaceAddrs()...)
}

func hostForms(host, etcHosts string) []string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if !isDNSName(host) {
		return nil
	}
	forms := []string{host}
	short, _, full := strings.Cut(host, ".")
	if full {
		forms = append(forms, short)
	}
	forms = append(forms, short+".local")
	for line := range strings.Lines(etcHosts) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(strings.ToLower(line))
		if len(fields) < 2 || !slices.ContainsFunc(fields[1:], func(f string) bool { return f == host || f == short }) {
			continue
		}
		for _, f := range fields[1:] {
			if strings.HasPrefix(f, short+".") && isDNSName(f) {
				forms = append(forms, f)
			}
		}
	}
	return forms
}

// interfaceAddrs leaves out IPv6 link-local addresses: they need a zone to be
// reached, and a certificate cannot name one.
func interfaceAddrs() []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsUnspecified() || (n.IP.To4() == nil && n.IP.IsLinkLocalUnicast()) {
			continue
		}
		out = append(out, n.IP.String())
	}
	return out
}

// cleanHosts turns what a person wrote ("Registry.lan:5000", "[::1]") into
// certificate names, and refuses what no certificate can hold.
func cleanHosts(hosts []string) ([]string, error) {
	var out []string
	for _, h := range hosts {
		name := strings.ToLower(strings.TrimSpace(h))
		name = strings.Trim(withoutPort(name), "[]")
		if ip := net.ParseIP(name); ip != nil {
			if !ip.IsUnspecified() {
				out = append(out, ip.String())
			}
			continue
		}
		if !isDNSName(strings.TrimPrefix(name, "*.")) {
			return nil, fmt.Errorf("certificate name %q: want a DNS name or an address, such as registry.lan or 10.0.0.5", h)
		}
		out = append(out, name)
	}
	return out, nil
}

func withoutPort(name string) string {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return name
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return name
	}
	return host
}

func isDNSName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func merge(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

func sameNames(leaf *x509.Certificate, wanted []string) bool {
	have := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		have = append(have, ip.String())
	}
	return slices.Equal(merge(have), wanted)
}
