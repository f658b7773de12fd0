package network

import (
	"fmt"
	"net/netip"
	"strings"
)

const hostsHead = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// Hosts returns a container's /etc/hosts: the loopback names, extra entries of the form name:address (as ExtraHosts
// returns them; others are left out), and the container's own addresses with its name, whose first label is a second
// name. It is a pure function.
func Hosts(hostname string, own []netip.Addr, extra []string) []byte {
	out := []byte(hostsHead)
	for _, e := range extra {
		if name, addr, err := splitHost(e, netip.Addr{}); err == nil {
			out = fmt.Appendf(out, "%s\t%s\n", addr, name)
		}
	}
	if hostname == "" {
		return out
	}
	names := hostname
	if label, _, dotted := strings.Cut(hostname, "."); dotted && label != "" {
		names += " " + label
	}
	for _, ip := range own {
		out = fmt.Appendf(out, "%s\t%s\n", ip, names)
	}
	return out
}

// ExtraHosts checks entries of the form name:address and puts the gateway's address in place of the word
// host-gateway. The error names the entry that is wrong.
func ExtraHosts(entries []string, gateway netip.Addr) ([]string, error) {
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		name, addr, err := splitHost(e, gateway)
		if err != nil {
			return nil, err
		}
		out = append(out, name+":"+addr.String())
	}
	return out, nil
}

// splitHost takes name:address apart; the address may be in brackets when it is IPv6.
func splitHost(entry string, gateway netip.Addr) (name string, addr netip.Addr, err error) {
	name, text, ok := strings.Cut(entry, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t\n#") {
		return "", addr, fmt.Errorf("extra host %q: want name:address", entry)
	}
	if text == "host-gateway" {
		if !gateway.IsValid() {
			return "", addr, fmt.Errorf("extra host %q: this container has no network of the host's to reach it by", entry)
		}
		return name, gateway, nil
	}
	addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		return "", addr, fmt.Errorf("extra host %q: %q is no IP address", entry, text)
	}
	return name, addr, nil
}
