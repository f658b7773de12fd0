package runner

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/spec"
)

// ports are the host ports to open: -p, and with -P every exposed port that -p does not name.
func ports(c spec.Config, h spec.HostConfig) ([]network.Port, error) {
	var out []network.Port
	for _, key := range slices.Sorted(maps.Keys(h.PortBindings)) {
		port, proto, err := parsePort(key)
		if err != nil {
			return nil, err
		}
		bindings := h.PortBindings[key]
		if len(bindings) == 0 {
			bindings = []spec.PortBinding{{}}
		}
		for _, b := range bindings {
			p, err := binding(port, proto, b)
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		port, proto, err := parsePort(key)
		if err != nil {
			return nil, err
		}
		named := slices.ContainsFunc(out, func(p network.Port) bool { return p.ContainerPort == port && p.Proto == proto })
		if h.PublishAllPorts && !named {
			out = append(out, network.Port{ContainerPort: port, Proto: proto})
		}
	}
	slices.SortStableFunc(out, func(a, b network.Port) int { return cmp.Compare(a.ContainerPort, b.ContainerPort) })
	if h.NetworkMode == "host" || h.NetworkMode == "none" { // Docker discards them there
		return nil, nil
	}
	return out, nil
}

// parsePort reads "80", "80/tcp".
func parsePort(s string) (uint16, string, error) {
	num, proto, _ := strings.Cut(s, "/")
	if proto == "" {
		proto = "tcp"
	}
	proto = strings.ToLower(proto)
	n, err := strconv.ParseUint(num, 10, 16)
	if err != nil || n == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return 0, "", fault.Invalid("invalid port specification: %q", s)
	}
	return uint16(n), proto, nil
}

func binding(port uint16, proto string, b spec.PortBinding) (p network.Port, err error) {
	p = network.Port{ContainerPort: port, Proto: proto}
	if b.HostIP != "" {
		if p.HostIP, err = netip.ParseAddr(b.HostIP); err != nil {
			return p, fault.Invalid("invalid IP address %q in port binding", b.HostIP)
		}
	}
	if b.HostPort == "" {
		return p, nil
	}
	// Clients expand ranges; a range left here asks for a free one of it.
	first, last, isRange := strings.Cut(b.HostPort, "-")
	low, err := strconv.ParseUint(first, 10, 16)
	high := low
	if err == nil && isRange {
		high, err = strconv.ParseUint(last, 10, 16)
	}
	if err != nil || high < low || isRange && low == 0 {
		return p, fault.Invalid("invalid port binding: host port %q is no port number, and no range of them", b.HostPort)
	}
	if p.HostPort = uint16(low); high > low {
		p.HostPortEnd = uint16(high)
	}
	return p, nil
}
