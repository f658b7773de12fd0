package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gantry-build/gantry/runner/network/netns"
)

// named answers at a port in a sandbox with its name.
func named(t *testing.T, s *Sandbox, name string, port int) {
	t.Helper()
	var l net.Listener
	err := netns.Do(s.ns, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprint(":", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			c.Close()
		}
	}()
}

// answers are those of some connections to an address, sorted.
func answers(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), to string, n int) (all []string) {
	t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		c, err := dial(ctx, "tcp", to)
		cancel()
		if err != nil {
			all = append(all, "nobody")
			continue
		}
		said, _ := io.ReadAll(c)
		c.Close()
		all = append(all, string(said))
	}
	slices.Sort(all)
	return all
}

func balanced(t *testing.T, n *Network) *Sandbox {
	t.Helper()
	s, err := n.NewSandbox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A container's virtual addresses lead to their backends in turn, to others when that is said, and nowhere when nothing is; the
// host's mesh does the same with its ports.
func TestBalance(t *testing.T) {
	needHost(t)
	n := openBridge(t, testOptions(t))
	client, one, two := balanced(t, n), balanced(t, n), balanced(t, n)
	named(t, one, "one", 80)
	named(t, two, "two", 80)
	vip := netip.MustParseAddr("192.0.2.7")
	other := netip.MustParseAddr("192.0.2.8")
	for _, c := range []struct {
		all  []Virtual
		want []string
	}{
		{[]Virtual{{vip, []netip.Addr{one.lease.IP, two.lease.IP}}, {other, []netip.Addr{one.lease.IP}},
			{netip.MustParseAddr("fd00::2"), []netip.Addr{netip.MustParseAddr("fd00::3")}}}, []string{"one", "one", "two", "two"}},
		{[]Virtual{{vip, []netip.Addr{two.lease.IP}}}, []string{"two", "two", "two", "two"}},
		{[]Virtual{{vip, nil}}, []string{"nobody", "nobody", "nobody", "nobody"}},
		{nil, []string{"nobody", "nobody", "nobody", "nobody"}},
	} {
		if err := setVirtual(client.ns, c.all); err != nil {
			t.Fatalf("%v: %v", c.all, err)
		}
		if got := answers(t, client.DialContext, vip.String()+":80", 4); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v", c.all, got)
		}
	}

	mesh := &Mesh{Device: n.Device(), Node: []netip.Addr{n.Gateway()}, Local: []netip.Addr{one.lease.IP}}
	for _, backends := range [][]netip.AddrPort{
		{netip.AddrPortFrom(one.lease.IP, 80), netip.AddrPortFrom(two.lease.IP, 80)}, {netip.AddrPortFrom(two.lease.IP, 80)},
	} {
		mesh.Ports = []MeshPort{{"tcp", 8080, backends}, {"udp", 8080, backends}}
		if err := n.host.SetMesh(mesh); err != nil {
			t.Fatal(err)
		}
		want := []string{"one", "one", "two", "two"}
		if len(backends) == 1 {
			want = []string{"two", "two", "two", "two"}
		}
		for who, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
			"the host": (&net.Dialer{}).DialContext, "a container": client.DialContext,
		} {
			if got := answers(t, dial, n.Gateway().String()+":8080", 4); !slices.Equal(got, want) {
				t.Errorf("by the mesh, to %s: %v", who, got)
			}
		}
		if got := answers(t, (&net.Dialer{}).DialContext, "127.0.0.1:8080", 4); !slices.Equal(got, want) {
			t.Errorf("by the mesh on loopback: %v", got)
		}
	}
	if err := n.host.SetMesh(nil); err != nil {
		t.Fatal(err)
	}
	if got := answers(t, client.DialContext, n.Gateway().String()+":8080", 1); !slices.Equal(got, []string{"nobody"}) {
		t.Errorf("without a mesh: %v", got)
	}
}
