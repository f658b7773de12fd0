package network

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrPortAllocated says that a host port belongs to another container or to a program on the host.
var ErrPortAllocated = errors.New("port is already allocated")

// PortError is a published port that could not be had. It reads as Docker's clients and tests expect.
type PortError struct {
	Host  netip.AddrPort
	Proto string
	Err   error // ErrPortAllocated, or why the address cannot be bound
}

func (e *PortError) Error() string {
	return fmt.Sprintf("driver failed programming external connectivity: Bind for %s failed: %v", e.Host, e.Err)
}

func (e *PortError) Unwrap() error { return e.Err }

// protocolNumber knows the protocols that have ports and address translation in the kernel.
func protocolNumber(name string) (byte, bool) {
	switch name {
	case "tcp":
		return unix.IPPROTO_TCP, true
	case "udp":
		return unix.IPPROTO_UDP, true
	case "sctp":
		return unix.IPPROTO_SCTP, true
	}
	return 0, false
}

// number is the protocol's number; p is normalised.
func (p Port) number() byte {
	n, _ := protocolNumber(p.Proto)
	return n
}

func (p Port) host() netip.AddrPort { return netip.AddrPortFrom(p.HostIP, p.HostPort) }

// normalise checks a port and fills in what its zero values mean.
func (p Port) normalise() (Port, error) {
	p.Proto = strings.ToLower(p.Proto)
	if p.Proto == "" {
		p.Proto = "tcp"
	}
	if !p.HostIP.IsValid() {
		p.HostIP = netip.IPv4Unspecified()
	}
	p.HostIP = p.HostIP.Unmap()
	if _, ok := protocolNumber(p.Proto); !ok {
		return p, fmt.Errorf("publishing port %d: unknown protocol %q: want tcp, udp or sctp", p.ContainerPort, p.Proto)
	}
	if p.ContainerPort == 0 {
		return p, errors.New("publishing container port 0: want 1 to 65535")
	}
	return p, nil
}

// portTable knows which host ports are taken. It holds each with a bound socket, so that a program on the host or
// another engine fails at once instead of silently losing its traffic, and gets the same answer from them.
type portTable struct {
	mu     sync.Mutex
	held   map[portKey][]holding
	cursor uint16 // the ephemeral port handed out most recently
}

type portKey struct {
	proto byte
	port  uint16
}

type holding struct {
	addr  netip.Addr
	owner string
	sock  *os.File // nil when the kernel cannot bind the protocol
}

func newPortTable() *portTable { return &portTable{held: map[portKey][]holding{}} }

// reserve takes all ports for a container, or none. It returns them with their real host ports, in the same order.
func (t *portTable) reserve(id string, ports []Port) ([]Port, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	got := make([]Port, len(ports))
	for _, i := range pickiestFirst(ports) {
		p, err := ports[i].normalise()
		if err == nil {
			p, err = t.reserveOne(id, p)
		}
		if err != nil {
			t.releaseLocked(id)
			return nil, err
		}
		got[i] = p
	}
	return got, nil
}

// pickiestFirst orders ports so that one with a choice does not take what another must have.
func pickiestFirst(ports []Port) []int {
	order := make([]int, len(ports))
	for i := range ports {
		order[i] = i
	}
	choice := func(p Port) int {
		switch {
		case p.HostPort == 0:
			return 1 << 16
		case p.HostPortEnd > p.HostPort:
			return int(p.HostPortEnd - p.HostPort)
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(choice(ports[a]), choice(ports[b])) })
	return order
}

func (t *portTable) reserveOne(id string, p Port) (Port, error) {
	switch low, high := p.HostPort, p.HostPortEnd; {
	case high > low && low > 0:
		p.HostPortEnd = 0
		for port := int(low); port <= int(high); port++ {
			p.HostPort = uint16(port)
			if err := t.bind(id, p); !errors.Is(err, ErrPortAllocated) {
				return p, err
			}
		}
		return p, p.taken(low, high)
	case low != 0:
		return p, t.bind(id, p)
	}
	low, high := ephemeralRange()
	for range int(high) - int(low) + 1 {
		if t.cursor++; t.cursor < low || t.cursor > high {
			t.cursor = low
		}
		p.HostPort = t.cursor
		if err := t.bind(id, p); !errors.Is(err, ErrPortAllocated) {
			return p, err
		}
	}
	return p, p.taken(low, high)
}

func (p Port) taken(low, high uint16) error {
	return fmt.Errorf("publishing container port %d: every %s port from %d to %d of the host is taken: %w",
		p.ContainerPort, p.Proto, low, high, ErrPortAllocated)
}

func (t *portTable) bind(id string, p Port) error {
	key := portKey{p.number(), p.HostPort}
	for _, h := range t.held[key] {
		if h.addr == p.HostIP || h.addr.Is4() == p.HostIP.Is4() && (h.addr.IsUnspecified() || p.HostIP.IsUnspecified()) {
			return &PortError{p.host(), p.Proto, ErrPortAllocated}
		}
	}
	sock, err := holdPort(key.proto, p.host())
	if err != nil {
		return &PortError{p.host(), p.Proto, err}
	}
	t.held[key] = append(t.held[key], holding{p.HostIP, id, sock})
	return nil
}

// adopt takes the ports of a container that already runs with them. A port that a program on the host has taken
// meanwhile stays with the container, whose rule catches the traffic first; the returned errors say which.
func (t *portTable) adopt(id string, ports []Port) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, p := range ports {
		if err := t.bind(id, p); err != nil {
			key := portKey{p.number(), p.HostPort}
			t.held[key] = append(t.held[key], holding{addr: p.HostIP, owner: id})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *portTable) release(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(id)
}

func (t *portTable) releaseAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, hs := range t.held {
		for _, h := range hs {
			h.close()
		}
	}
	clear(t.held)
}

func (t *portTable) releaseLocked(id string) {
	for key, hs := range t.held {
		hs = slices.DeleteFunc(hs, func(h holding) bool {
			if h.owner == id {
				h.close()
			}
			return h.owner == id
		})
		if t.held[key] = hs; len(hs) == 0 {
			delete(t.held, key)
		}
	}
}

func (h holding) close() {
	if h.sock != nil {
		h.sock.Close()
	}
}
