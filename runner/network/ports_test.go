package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func TestPortConflicts(t *testing.T) {
	local, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	for _, c := range []struct {
		name     string
		first    Port
		second   Port
		conflict bool
	}{
		{"same", Port{}, Port{}, true},
		{"wildcard first", Port{}, Port{HostIP: local}, true},
		{"wildcard second", Port{HostIP: local}, Port{}, true},
		{"same address", Port{HostIP: local}, Port{HostIP: local}, true},
		{"mapped address", Port{HostIP: local}, Port{HostIP: netip.MustParseAddr("::ffff:127.0.0.1")}, true},
		{"two addresses", Port{HostIP: local}, Port{HostIP: other}, false},
		{"two protocols", Port{}, Port{Proto: "udp"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := newPortTable()
			defer table.releaseAll()
			c.first.HostPort, c.first.ContainerPort = freePort(t), 80
			c.second.HostPort, c.second.ContainerPort = c.first.HostPort, 81
			_, err := table.reserve("one", []Port{c.first})
			must(t, err)
			_, err = table.reserve("two", []Port{c.second})
			if got := errors.Is(err, ErrPortAllocated); got != c.conflict {
				t.Fatalf("conflict %v, want %v: %v", got, c.conflict, err)
			}
			table.release("one")
			_, err = table.reserve("two", []Port{{HostPort: c.first.HostPort, ContainerPort: 80}})
			if c.conflict && err != nil {
				t.Errorf("after release: %v", err)
			}
		})
	}
}

func TestPortUsedByTheHost(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	table := newPortTable()
	defer table.releaseAll()
	_, err = table.reserve("c", []Port{{HostPort: port, ContainerPort: 80}})
	want := "driver failed programming external connectivity: Bind for 0.0.0.0:" + strconv.Itoa(int(port)) +
		" failed: port is already allocated"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	// The server ends with a connection in TIME_WAIT, as a restarted service does: the port must be had at once.
	client, err := net.Dial("tcp4", ln.Addr().String())
	must(t, err)
	served, err := ln.Accept()
	must(t, err)
	served.Close()
	client.Close()
	ln.Close()
	_, err = table.reserve("c", []Port{{HostPort: port, ContainerPort: 80}})
	must(t, err)
	for _, addr := range []string{"0.0.0.0", "127.0.0.1"} {
		if ln, err := net.Listen("tcp4", net.JoinHostPort(addr, strconv.Itoa(int(port)))); err == nil {
			ln.Close()
			t.Errorf("a program on the host could take %s:%d", addr, port)
		}
	}
	if c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))); err == nil {
		c.Close()
		t.Error("the held port accepts connections")
	}
}

func TestReserveIsAllOrNothing(t *testing.T) {
	table := newPortTable()
	defer table.releaseAll()
	port := freePort(t)
	for name, bad := range map[string]Port{
		"twice":          {HostPort: port, ContainerPort: 81},
		"protocol":       {ContainerPort: 80, Proto: "icmp"},
		"container port": {HostPort: 1},
		"address":        {HostIP: netip.MustParseAddr("203.0.113.77"), ContainerPort: 80},
	} {
		if _, err := table.reserve("c", []Port{{HostPort: port, ContainerPort: 80}, bad}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if len(table.held) > 0 {
			t.Errorf("%s: still held: %v", name, table.held)
		}
	}
}

func TestEphemeralPorts(t *testing.T) {
	table := newPortTable()
	defer table.releaseAll()
	low, high := ephemeralRange()
	got, err := table.reserve("c", []Port{{ContainerPort: 80}, {ContainerPort: 80, Proto: "udp"}, {ContainerPort: 81}})
	must(t, err)
	seen := map[uint16]bool{}
	for _, p := range got {
		if p.HostPort < low || p.HostPort > high || seen[p.HostPort] || !p.HostIP.IsUnspecified() || p.Proto == "" {
			t.Errorf("got %+v from %d-%d", p, low, high)
		}
		seen[p.HostPort] = true
	}
}

func TestElementOf(t *testing.T) {
	to := netip.MustParseAddr("172.20.0.2")
	everywhere, err := Port{HostPort: 0x1234, ContainerPort: 0x5678}.normalise()
	must(t, err)
	at, err := Port{HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 53, ContainerPort: 53, Proto: "udp"}.normalise()
	must(t, err)
	if e := elementOf(everywhere, to); e.in != "published4" || e.key != "\x06\x00\x00\x00\x12\x34\x00\x00" ||
		e.val != "\xac\x14\x00\x02\x56\x78\x00\x00" {
		t.Errorf("%q: %q", e.key, e.val)
	}
	if e := elementOf(at, to); e.key != "\xc0\x00\x02\x01\x11\x00\x00\x00\x00\x35\x00\x00" {
		t.Errorf("%q: %q", e.key, e.val)
	}
}

// One container port with a range on the host takes a free port of it, and leaves to others what they must have.
func TestPortRange(t *testing.T) {
	table := newPortTable()
	defer table.releaseAll()
	var low uint16
	for try := 0; ; try++ { // three free ports in a row
		low = freePort(t)
		_, err := table.reserve("probe",
			[]Port{{HostPort: low, ContainerPort: 1}, {HostPort: low + 1, ContainerPort: 2}, {HostPort: low + 2, ContainerPort: 3}})
		table.release("probe")
		if err == nil && low < 1<<16-3 {
			break
		}
		if try == 20 {
			t.Fatal(err)
		}
	}
	ranged := Port{HostPort: low, HostPortEnd: low + 2, ContainerPort: 80}
	got, err := table.reserve("one", []Port{ranged, {HostPort: low, ContainerPort: 81}})
	if err != nil || got[0].HostPort != low+1 || got[0].HostPortEnd != 0 || got[1].HostPort != low || got[1].ContainerPort != 81 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err = table.reserve("two", []Port{ranged}); err != nil || got[0].HostPort != low+2 {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = table.reserve("three", []Port{ranged})
	if want := fmt.Sprintf("%d to %d", low, low+2); !errors.Is(err, ErrPortAllocated) || !strings.Contains(err.Error(), want) {
		t.Errorf("a full range: %v", err)
	}
	table.release("two")
	if got, err = table.reserve("three", []Port{ranged}); err != nil || got[0].HostPort != low+2 {
		t.Errorf("after release: %+v, %v", got, err)
	}
}
