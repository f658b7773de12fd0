package pki

import (
	"crypto/x509"
	"net"
	"slices"
	"strings"
)

// privateNets are the networks whose addresses change hands (RFC 1918, 3927, 4193, 4291, 6598): an
// authority may sign for all of them, so that a new lease of an address is no reason for a new one.
var privateNets = parseNets(
	"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7", "fe80::/10",
)

func parseNets(texts ...string) (nets []*net.IPNet) {
	for _, t := range texts {
		if _, n, err := net.ParseCIDR(t); err == nil {
			nets = append(nets, n)
		}
	}
	return nets
}

// constrain gives an authority's certificate the name constraints of RFC 5280, section 4.2.1.10.
func constrain(ca *x509.Certificate, names []string) {
	ca.PermittedDNSDomainsCritical = true
	ca.PermittedIPRanges = slices.Clone(privateNets)
	for _, n := range names {
		if permits(ca, n) {
			continue
		}
		if ip := net.ParseIP(n); ip != nil {
			bits := 8 * len(shortest(ip))
			ca.PermittedIPRanges = append(ca.PermittedIPRanges, &net.IPNet{IP: shortest(ip), Mask: net.CIDRMask(bits, bits)})
		} else {
			ca.PermittedDNSDomains = append(ca.PermittedDNSDomains, strings.TrimPrefix(n, "*."))
		}
	}
}

func shortest(ip net.IP) net.IP {
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip
}

// permitsAll tells whether an authority may sign for all names, and for no others than constrained ones.
func permitsAll(ca *x509.Certificate, names []string) bool {
	return ca.PermittedDNSDomainsCritical && !slices.ContainsFunc(names, func(n string) bool { return !permits(ca, n) })
}

func permits(ca *x509.Certificate, name string) bool {
	if ip := net.ParseIP(name); ip != nil {
		return slices.ContainsFunc(ca.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(ip) })
	}
	name = strings.TrimPrefix(name, "*.")
	return slices.ContainsFunc(ca.PermittedDNSDomains, func(d string) bool { return name == d || strings.HasSuffix(name, "."+d) })
}
