package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func testOptions(t testing.TB) Options {
	return Options{Name: "gtyt0", Table: "gantry_test_x", State: filepath.Join(t.TempDir(), "network")}
}

// openBridge opens a network that the test's end takes off the host again.
func openBridge(t testing.TB, opts Options) *Network {
	t.Helper()
	h, err := Open(t.Context(), opts)
	must(t, err)
	b := h.Default()
	t.Cleanup(func() {
		if err := b.host.Clear(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return b
}

func attach(t testing.TB, b *Network, id string, ports ...Port) (*sandbox, Endpoint) {
	t.Helper()
	s := newSandbox(t, 0)
	ep, err := b.Attach(t.Context(), Request{ID: id, PID: s.pid, Ports: ports})
	must(t, err)
	return s, ep
}

// elements lists the keys in both maps as the kernel has them.
func elements(t testing.TB, b *Network) (keys []string) {
	t.Helper()
	conn, err := connect()
	must(t, err)
	for _, m := range portMaps(b.host.rules.nft()) {
		es, err := conn.GetSetElements(m)
		must(t, err)
		for _, e := range es {
			keys = append(keys, string(e.Key))
		}
	}
	return keys
}

// wantPeer asserts that a server answers and sees the given peer; an empty peer stands for any.
func wantPeer(t *testing.T, what string, from *sandbox, addr, peer string) {
	t.Helper()
	got, err := from.get(addr)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if peer != "" && got != peer {
		t.Errorf("%s: server saw %s, want %s", what, got, peer)
	}
}

func TestReachability(t *testing.T) {
	needHost(t)
	const knob = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	before, err := os.ReadFile(knob)
	if err != nil {
		t.Logf("no br_netfilter here (%v): testing without it only", err)
		reachability(t)
		return
	}
	t.Cleanup(func() { _ = os.WriteFile(knob, before, 0o644) })
	for _, v := range []string{"0", "1"} {
		t.Run("br_netfilter="+v, func(t *testing.T) {
			must(t, os.WriteFile(knob, []byte(v), 0o644))
			reachability(t)
		})
	}
}

func reachability(t *testing.T) {
	neighbour := newNeighbour(t)
	neighbour.serve(t, neighbourAddr+":90")
	b := openBridge(t, testOptions(t))
	web, ep := attach(t, b, "web", Port{HostPort: 8080, ContainerPort: 80}, Port{ContainerPort: 80},
		Port{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8081, ContainerPort: 80})
	other, otherEP := attach(t, b, "other")
	web.serve(t, ":80")
	web.serve(t, ":81")
	gw := ep.Gateway.String()

	wantPeer(t, "host by loopback", nil, "127.0.0.1:8080", gw)
	wantPeer(t, "host by its address", nil, hostAddr+":8080", "")
	wantPeer(t, "host by the bridge's address", nil, gw+":8080", "")
	wantPeer(t, "host to the container", nil, ep.IP.String()+":80", gw)
	wantPeer(t, "host by loopback, chosen port", nil, ep.Ports[1].host().String(), gw)
	wantPeer(t, "host by loopback, published on loopback", nil, "127.0.0.1:8081", gw)
	wantPeer(t, "neighbour keeps its address", neighbour, hostAddr+":8080", neighbourAddr)
	wantPeer(t, "container by the host's address", other, hostAddr+":8080", "")
	wantPeer(t, "container by the gateway", other, gw+":8080", "")
	wantPeer(t, "container to container", other, ep.IP.String()+":81", otherEP.IP.String())
	wantPeer(t, "container to itself by the host's address", web, hostAddr+":8080", "")
	wantPeer(t, "container to the outside", other, neighbourAddr+":90", hostAddr)

	if _, err := neighbour.get(hostAddr + ":8081"); err == nil {
		t.Error("a port published on loopback answers a neighbour")
	}
	must(t, neighbour.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(b.Subnet()), Gw: net.ParseIP(hostAddr)})
	}))
	if _, err := neighbour.get(ep.IP.String() + ":81"); err == nil {
		t.Error("a port that is not published answers a neighbour with a route to the subnet")
	}
}

func TestUDP(t *testing.T) {
	needHost(t)
	neighbour := newNeighbour(t)
	b := openBridge(t, testOptions(t))
	attach(t, b, "first") // the kernel tracks nothing without rules that ask for it
	// A client that speaks before the container is there: the kernel tracks its flow to the host itself.
	early, err := neighbour.dial(t.Context(), "udp4", hostAddr+":5353")
	must(t, err)
	defer early.Close()
	for range 50 { // a link that has just come up may lose packets for a second
		if _, _ = early.Write([]byte("too early")); len(flows(t, 5353)) > 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(flows(t, 5353)) == 0 {
		t.Fatal("the kernel does not track the early flow")
	}

	s := newSandbox(t, 0)
	var echo net.PacketConn
	must(t, s.do(func() (err error) { echo, err = net.ListenPacket("udp4", ":53"); return err }))
	done := make(chan struct{})
	go func() { defer close(done); echoPackets(echo) }()
	defer func() { echo.Close(); <-done }()
	_, err = b.Attach(t.Context(), Request{ID: "dns", PID: s.pid, Ports: []Port{{HostPort: 5353, ContainerPort: 53, Proto: "UDP"}}})
	must(t, err)

	local, err := net.Dial("udp4", "127.0.0.1:5353")
	must(t, err)
	defer local.Close()
	for name, c := range map[string]net.Conn{"loopback": local, "neighbour": early} {
		if err := ping(c); err != nil {
			t.Errorf("by %s: %v; the kernel tracks %v", name, err, flows(t, 5353))
		}
	}
	must(t, b.Detach(t.Context(), "dns"))
	if err := ping(early); err == nil {
		t.Error("the flow outlives the container's endpoint")
	}
}

func echoPackets(c net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(buf[:n], from)
	}
}

// flows are the UDP connections that the kernel tracks to a port.
func flows(t *testing.T, port uint16) (found []string) {
	t.Helper()
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(t, err)
	for _, f := range all {
		if f.Forward.Protocol == unix.IPPROTO_UDP && f.Forward.DstPort == port {
			found = append(found, f.String())
		}
	}
	return found
}

// ping sends a few times, since the first packet may meet an unresolved neighbour or an earlier refusal.
func ping(c net.Conn) (err error) {
	buf := make([]byte, 16)
	for range 3 {
		_, _ = c.Write([]byte("ping"))
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err = c.Read(buf); err == nil {
			return nil
		}
	}
	return err
}

// The bridge needs route_localnet, with which a container could reach what listens on the host's loopback only.
func TestContainerCannotReachHostLoopback(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	s, ep := attach(t, b, "mallory")
	(*sandbox)(nil).serve(t, "127.0.0.1:7000")
	must(t, s.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("127.0.0.1/8"))})
		}
		if err == nil {
			err = os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0o644)
		}
		return errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: ipNet(loopback), Gw: ep.Gateway.AsSlice()}))
	}))
	if _, err := s.get("127.0.0.1:7000"); err == nil {
		t.Error("a container reaches the host's loopback")
	}
	conn, err := connect()
	must(t, err)
	conn.FlushChain(&nftables.Chain{Name: "raw", Table: b.host.rules.nft()})
	must(t, conn.Flush())
	if _, err := s.get("127.0.0.1:7000"); err != nil {
		t.Errorf("the test proves nothing: even without the rule: %v", err)
	}
}

func TestEmulatedContainersNamespace(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	s := newSandbox(t, unix.CLONE_NEWUSER)
	ep, err := b.Attach(t.Context(), Request{ID: "foreign", PID: s.pid, Ports: []Port{{HostPort: 8090, ContainerPort: 80}}})
	must(t, err)
	s.serve(t, ":80")
	wantPeer(t, "namespace of a child user namespace", nil, "127.0.0.1:8090", ep.Gateway.String())
}
