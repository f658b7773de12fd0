package cluster

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gantry-build/gantry/internal/fault"
)

// DefaultPort is where managers listen.
const DefaultPort = "2377"

// Addresses settles where a node listens and by which address others reach it. Each is HOST, INTERFACE, either with :PORT, or
// empty. An empty advertise is the address that it listens on, or this machine's if it has only one; a node that joins needs
// none, as the manager sees it.
func Addresses(listen, advertise string, joins bool) (listenAt, advertiseAs string, err error) {
	listenHost, port, err := resolve(cmp.Or(listen, "0.0.0.0:"+DefaultPort), DefaultPort)
	if err != nil {
		return "", "", fault.Invalid("invalid ListenAddr %q: %v", listen, err)
	}
	listenAt = net.JoinHostPort(listenHost, port)
	if advertise != "" {
		host, advertisePort, err := resolve(advertise, port)
		if err != nil {
			return "", "", fault.Invalid("invalid AdvertiseAddr %q: %v", advertise, err)
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			return "", "", fault.Invalid("advertise address must be a non-zero IP address or network interface (with optional port number)")
		}
		return listenAt, net.JoinHostPort(host, advertisePort), nil
	}
	if ip, err := netip.ParseAddr(listenHost); err == nil && !ip.IsUnspecified() {
		return listenAt, listenAt, nil
	}
	if joins {
		return listenAt, "", nil
	}
	host, err := onlyAddress()
	return listenAt, net.JoinHostPort(host, port), err
}

// resolve takes HOST:PORT apart; an interface stands for its address.
func resolve(text, defaultPort string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(strings.TrimPrefix(text, "tcp://"))
	if err != nil {
		host, port = strings.Trim(text, "[]"), defaultPort
	}
	port = cmp.Or(port, defaultPort)
	if host == "" {
		return "0.0.0.0", port, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host, port, nil
	}
	link, err := net.InterfaceByName(host)
	if err != nil {
		return "", "", fmt.Errorf("%s is neither an IP address nor a network interface of this machine", host)
	}
	all, err := addressesOf(link)
	if err != nil {
		return "", "", err
	}
	switch {
	case len(all) == 0:
		return "", "", fmt.Errorf("interface %s has no address", host)
	case len(all) > 1 && all[1].Is4() == all[0].Is4():
		return "", "", fmt.Errorf("interface %s has more than one address (%s and %s)", host, all[0], all[1])
	}
	return all[0].String(), port, nil
}

// addressesOf are an interface's addresses that others may reach, IPv4 first.
func addressesOf(link *net.Interface) (all []netip.Addr, err error) {
	addrs, err := link.Addrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			all = append(all, p.Addr())
		}
	}
	slices.SortStableFunc(all, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return all, nil
}

// forContainers are the bridges of gantry's networks, and of other engines'.
var forContainers = regexp.MustCompile(`^(gantry0|gty-|gb-|docker|br-[0-9a-f]{12}$|cni|podman|virbr)`)

// onlyAddress is this machine's, if it has one that is not of containers' networks. The CLI adds which flag names
// one.
func onlyAddress() (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", err
	}
	var found, where []string
	for _, l := range links {
		attrs := l.Attrs()
		containers := l.Type() == "bridge" && forContainers.MatchString(attrs.Name)
		if attrs.Flags&net.FlagLoopback != 0 || attrs.Flags&net.FlagUp == 0 || containers {
			continue
		}
		link, err := net.InterfaceByIndex(attrs.Index)
		if err != nil {
			continue // it has gone
		}
		all, err := addressesOf(link)
		if err != nil || len(all) == 0 {
			continue
		}
		for _, a := range all {
			if a.Is4() == all[0].Is4() {
				found, where = append(found, a.String()), append(where, fmt.Sprintf("%s on %s", a, attrs.Name))
			}
		}
	}
	switch len(found) {
	case 0:
		return "", fault.Invalid("could not find the system's IP address")
	case 1:
		return found[0], nil
	}
	return "", fault.Invalid("could not choose an IP address to advertise since this system has multiple addresses on different "+
		"interfaces (%s)", strings.Join(where, " and "))
}

// Remote is the address of a manager that is to be joined.
func Remote(text string) (string, error) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(text, "tcp://"))
	if err != nil {
		host, port = strings.Trim(text, "[]"), DefaultPort
	}
	if host == "" {
		return "", fault.Invalid("invalid remoteAddr %q: it has no host", text)
	}
	return net.JoinHostPort(host, cmp.Or(port, DefaultPort)), nil
}
