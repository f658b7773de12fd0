package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// holdPort binds a host port without serving it: whoever binds it next gets "address already in use", and a packet
// that no rule of ours caught is refused. It returns nil for a protocol whose sockets the kernel lacks.
func holdPort(proto byte, addr netip.AddrPort) (*os.File, error) {
	kind := unix.SOCK_STREAM
	if proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domainOf(addr.Addr()), kind|unix.SOCK_CLOEXEC, int(proto))
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening a socket: %w", err)
	}
	if err := bindIdle(fd, proto, addr); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, ErrPortAllocated
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), "published port "+addr.String()), nil
}

func domainOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// socketAddress prepares fd: an IPv6 socket is to leave the same port of IPv4 alone.
func socketAddress(fd int, addr netip.AddrPort) (unix.Sockaddr, error) {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}, nil
	}
	err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}, err
}

// bindIdle binds fd. A TCP port may still have connections in TIME_WAIT from a server that just ended, which only
// SO_REUSEADDR passes; but a socket bound with it lets others bind the port too, unless it has listened since. So it
// listens, drops the option, and stops listening: the port stays taken (net/ipv4/inet_connection_sock.c).
func bindIdle(fd int, proto byte, addr netip.AddrPort) error {
	sa, err := socketAddress(fd, addr)
	if err != nil {
		return err
	}
	if proto != unix.IPPROTO_TCP {
		return unix.Bind(fd, sa)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	if err := unix.Listen(fd, 0); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return err
	}
	return unix.Shutdown(fd, unix.SHUT_RDWR)
}

// ephemeralRange is the range from which the kernel, and Docker, choose a port nobody asked for.
func ephemeralRange() (low, high uint16) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if _, err = fmt.Sscan(string(b), &low, &high); err == nil && 0 < low && low < high {
			return low, high
		}
	}
	return 32768, 60999
}
