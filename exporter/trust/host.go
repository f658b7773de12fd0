package trust

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

const (
	hub    = "docker.io"
	hubAPI = "registry-1.docker.io"
)

// cleanHost accepts HOST and HOST:PORT, also with the scheme that people paste,
// and nothing that would lead out of certs.d. An IPv6 address needs its
// brackets, as in image references.
func cleanHost(name string) (string, error) {
	host := strings.ToLower(strings.TrimSpace(name))
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	host = strings.TrimSuffix(host, "/")
	u, err := url.Parse("//" + host)
	bare := err == nil && !strings.HasPrefix(host, "[") && strings.Count(host, ":") > 1
	if err != nil || bare || u.Host != host || u.Hostname() == "" || strings.HasPrefix(host, ".") || strings.ContainsAny(host, "\\ ") {
		return "", fmt.Errorf("%q is no registry host; give HOST or HOST:PORT, such as registry.lan:5000", name)
	}
	return host, nil
}

// mirrorHost is the host part of a mirror, which may have a scheme and a path.
func mirrorHost(mirror string) string {
	_, rest, found := strings.Cut(mirror, "://")
	if !found {
		rest = mirror
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// address is where to dial a host for TLS.
func address(host string) string {
	if host == hub {
		host = hubAPI
	}
	u := url.URL{Host: host}
	if u.Port() != "" {
		return host
	}
	return net.JoinHostPort(u.Hostname(), "443")
}

// publicName is the name by which a person knows the host of a request.
func publicName(host string) string {
	if host == hubAPI {
		return hub
	}
	return host
}
