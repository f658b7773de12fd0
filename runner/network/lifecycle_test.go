package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// A container that is attached again at once must not collide with what the background still deletes.
func TestReattach(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	opts.Subnet = netip.MustParsePrefix("10.99.0.0/29") // five addresses: the same one comes round soon
	b := openBridge(t, opts)
	for range 12 {
		s, ep := attach(t, b, "c1", Port{HostPort: 8080, ContainerPort: 80})
		if !opts.Subnet.Contains(ep.IP) {
			t.Fatalf("%s is not in %s", ep.IP, opts.Subnet)
		}
		s.serve(t, ":80")
		wantPeer(t, "again", nil, "127.0.0.1:8080", "")
		must(t, b.Detach(t.Context(), "c1"))
	}
	for i := range 5 {
		attach(t, b, fmt.Sprint("full", i))
	}
	s := newSandbox(t, 0)
	if _, err := b.Attach(t.Context(), Request{ID: "more", PID: s.pid}); err == nil {
		t.Error("a sixth address in a /29 with a gateway")
	}
}

// A packet lost while the kernel brings up the link costs its sender a second (see awaitCarrier).
func TestReachableAtOnce(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	for i := range 30 {
		s := newSandbox(t, 0)
		s.serve(t, ":80")
		ep, err := b.Attach(t.Context(), Request{ID: fmt.Sprint("c", i), PID: s.pid})
		must(t, err)
		conn, err := net.DialTimeout("tcp4", ep.IP.String()+":80", 500*time.Millisecond)
		if err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
		conn.Close()
		must(t, b.Detach(t.Context(), ep.ID))
	}
}

// veths lists the veth pairs on the network's bridge once the background is done.
func veths(t testing.TB, b *Network) []string {
	t.Helper()
	b.host.reaper.awaitAll()
	br, err := b.bridge()
	must(t, err)
	if br == nil {
		return nil
	}
	names, err := strayVeths(br.Attrs().Index, nil)
	must(t, err)
	return names
}

func exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

func TestOpenTouchesNothing(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	b := openBridge(t, opts)
	must(t, b.host.Restore(t.Context(), nil))
	if _, err := os.Stat(opts.State); err == nil || exists(opts.Name) || b.host.rules.listed() {
		t.Errorf("opening an empty network made a state (%v), a device (%v) or a table (%v)", err, exists(opts.Name), b.host.rules.listed())
	}
}

func TestDetachLeavesNothing(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	_, ep := attach(t, b, "c1", Port{HostPort: 8080, ContainerPort: 80},
		Port{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, ContainerPort: 53, Proto: "udp"},
		Port{HostPort: 9899, ContainerPort: 9899, Proto: "sctp"})
	if n := len(elements(t, b)); n != 3 {
		t.Errorf("%d elements for three ports", n)
	}
	if _, err := b.Attach(t.Context(), Request{ID: "c1", PID: os.Getpid()}); err == nil {
		t.Error("attached to the host's own namespace")
	}
	other := newSandbox(t, 0)
	if _, err := b.Attach(t.Context(), Request{ID: "c1", PID: other.pid}); !errors.Is(err, ErrAttached) {
		t.Errorf("attaching twice: %v", err)
	}
	for range 2 {
		must(t, b.Detach(t.Context(), "c1"))
	}
	if es, vs := elements(t, b), veths(t, b); len(es)+len(vs) > 0 {
		t.Errorf("left behind: elements %q, veths %q", es, vs)
	}
	if _, err := os.Stat(b.store.leasePath("c1")); err == nil {
		t.Error("left the lease behind")
	}
	_, again := attach(t, b, "c2", ep.Ports...)
	if again.IP == ep.IP {
		t.Errorf("%s was handed out again at once", ep.IP)
	}
}

func TestAttachIsAllOrNothing(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	s := newSandbox(t, 0)
	_, err := b.Attach(t.Context(), Request{
		ID: "c1", PID: s.pid, Ports: []Port{{HostPort: 8080, ContainerPort: 80}}, Sysctls: []string{"net.ipv4.conf.IFNAME.nothing=1"},
	})
	if err == nil {
		t.Fatal("attached with a parameter that the kernel does not have")
	}
	if _, ok := b.Endpoint("c1"); ok || len(elements(t, b)) > 0 || len(veths(t, b)) > 0 {
		t.Error("a failed attach left something")
	}
	attach(t, b, "c2", Port{HostPort: 8080, ContainerPort: 80})
	if _, err := b.Attach(t.Context(), Request{ID: "c3", PID: 1 << 30}); err == nil {
		t.Error("attached a process that does not exist")
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	b := openBridge(t, opts)
	attach(t, b, "c1", Port{HostPort: 8080, ContainerPort: 80})
	veth := veths(t, b)[0]
	for range 2 {
		must(t, b.host.Clear(t.Context()))
	}
	if exists(opts.Name) || exists(veth) || b.host.rules.listed() {
		t.Errorf("left behind: bridge %v, veth %v, table %v", exists(opts.Name), exists(veth), b.host.rules.listed())
	}
	if left, _ := os.ReadDir(opts.State); len(left) > 0 {
		t.Errorf("state left behind: %v", left)
	}
	ln, err := net.Listen("tcp4", ":8080")
	must(t, err)
	ln.Close()
	attach(t, b, "c2") // and it starts anew
}

func TestRestore(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	first := openBridge(t, opts)
	web, ep := attach(t, first, "web", Port{HostPort: 8080, ContainerPort: 80})
	attach(t, first, "gone", Port{HostPort: 8081, ContainerPort: 80})
	web.serve(t, ":80")
	must(t, first.host.Close()) // what a killed daemon leaves: the host as it is, the sockets closed

	second := openBridge(t, opts)
	for range 2 {
		must(t, second.host.Restore(t.Context(), map[string][]string{DefaultID: {"web"}}))
	}
	if got, ok := second.Endpoint("web"); !ok || got.IP != ep.IP || got.Ports[0] != ep.Ports[0] {
		t.Errorf("restored %+v, want %+v", got, ep)
	}
	if es, vs := elements(t, second), veths(t, second); len(es) != 1 || len(vs) != 1 {
		t.Errorf("elements %q, veths %q: want those of one container", es, vs)
	}
	wantPeer(t, "after a restart", nil, "127.0.0.1:8080", "")
	other := newSandbox(t, 0)
	if _, err := second.Attach(t.Context(),
		Request{ID: "thief", PID: other.pid, Ports: []Port{{HostPort: 8080, ContainerPort: 1}}}); !errors.Is(err, ErrPortAllocated) {
		t.Errorf("the restored port could be taken: %v", err)
	}
	if _, next := attach(t, second, "next", Port{HostPort: 8081, ContainerPort: 80}); next.IP == ep.IP {
		t.Errorf("%s was handed out twice", ep.IP)
	}
}

func TestTableFlushedByOthers(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	web, _ := attach(t, b, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serve(t, ":80")
	for name, repair := range map[string]func(){
		"attach":  func() { attach(t, b, "other") },
		"detach":  func() { must(t, b.Detach(t.Context(), "published")) },
		"restore": func() { must(t, b.host.Restore(t.Context(), map[string][]string{DefaultID: {"web"}})) },
	} {
		if name == "detach" {
			attach(t, b, "published", Port{HostPort: 8082, ContainerPort: 80})
		}
		conn, err := connect()
		must(t, err)
		conn.DelTable(b.host.rules.nft())
		must(t, conn.Flush())
		if _, err := (*sandbox)(nil).get("127.0.0.1:8080"); err == nil {
			t.Fatal("reachable without a table")
		}
		repair()
		wantPeer(t, "after "+name, nil, "127.0.0.1:8080", "")
		if n := len(elements(t, b)); n != 1 {
			t.Errorf("after %s: %d elements", name, n)
		}
	}
}

func TestConcurrentAttach(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	const n = 20
	sandboxes := make([]*sandbox, n)
	for i := range sandboxes {
		sandboxes[i] = newSandbox(t, 0)
		sandboxes[i].serve(t, ":80")
	}
	eps := make([]Endpoint, n)
	var g errgroup.Group
	for i, s := range sandboxes {
		g.Go(func() (err error) {
			eps[i], err = b.Attach(t.Context(), Request{ID: fmt.Sprint("c", i), PID: s.pid, Ports: []Port{{ContainerPort: 80}}})
			return err
		})
	}
	must(t, g.Wait())
	seen := map[any]bool{}
	for _, ep := range eps {
		if seen[ep.IP] || seen[ep.Ports[0].HostPort] {
			t.Errorf("%s or port %d was given twice", ep.IP, ep.Ports[0].HostPort)
		}
		seen[ep.IP], seen[ep.Ports[0].HostPort] = true, true
		wantPeer(t, ep.ID, nil, fmt.Sprint("127.0.0.1:", ep.Ports[0].HostPort), ep.Gateway.String())
	}
	for _, ep := range eps {
		g.Go(func() error { return b.Detach(t.Context(), ep.ID) })
	}
	must(t, g.Wait())
	if es := elements(t, b); len(es) > 0 {
		t.Errorf("%d elements left", len(es))
	}
}

func TestForeignDeviceIsRefused(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = opts.Name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	defer func() { must(t, deleteLink(opts.Name)) }()
	h, err := Open(t.Context(), opts)
	must(t, err)
	b := h.Default()
	s := newSandbox(t, 0)
	if _, err := b.Attach(t.Context(), Request{ID: "c1", PID: s.pid}); !errors.Is(err, errForeignDevice) {
		t.Errorf("attach: %v", err)
	}
	if err := b.host.Clear(t.Context()); !errors.Is(err, errForeignDevice) || !exists(opts.Name) {
		t.Errorf("remove: %v", err)
	}
}

func TestTwoNetworksSideBySide(t *testing.T) {
	needHost(t)
	one := openBridge(t, testOptions(t))
	opts := testOptions(t)
	opts.Name, opts.Table = "gtyt1", "gantry_test_y"
	two := openBridge(t, opts)
	attach(t, one, "a", Port{HostPort: 8080, ContainerPort: 80})
	s := newSandbox(t, 0)
	if _, err := two.Attach(t.Context(),
		Request{ID: "a", PID: s.pid, Ports: []Port{{HostPort: 8080, ContainerPort: 80}}}); !errors.Is(err, ErrPortAllocated) {
		t.Errorf("one host port for two networks: %v", err)
	}
	attach(t, two, "b")
	if one.Subnet().Overlaps(two.Subnet()) {
		t.Errorf("both chose %s", one.Subnet())
	}
	a, b := newNetwork(t, one.host, configOf("mine")), newNetwork(t, two.host, configOf("yours"))
	if a.Subnet().Overlaps(b.Subnet()) {
		t.Errorf("both chose %s", a.Subnet())
	}
}

func TestMTU(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	attach(t, openBridge(t, opts), "c1")
	opts.MTU = 1280
	b := openBridge(t, opts)
	s, _ := attach(t, b, "c2")
	must(t, s.do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil && link.Attrs().MTU != opts.MTU {
			err = fmt.Errorf("the container's MTU is %d", link.Attrs().MTU)
		}
		return err
	}))
}

func TestFeaturesOfThisKernel(t *testing.T) {
	needHost(t)
	for _, f := range features() {
		if err := f.try("gantry_test_probe"); err != nil {
			t.Errorf("%s: %v", f.module, err)
		}
	}
	conn, err := connect()
	must(t, err)
	if l, err := conn.ListTableOfFamily("gantry_test_probe", nftables.TableFamilyINet); err == nil && l != nil {
		t.Error("the probe left its table")
	}
}

func BenchmarkAttachDetach(bm *testing.B) {
	needHost(bm)
	for _, ports := range [][]Port{nil, {{HostPort: 8080, ContainerPort: 80}}} {
		bm.Run(fmt.Sprint("ports=", len(ports)), func(bm *testing.B) {
			b := openBridge(bm, testOptions(bm))
			s := newSandbox(bm, 0)
			for bm.Loop() {
				if _, err := b.Attach(bm.Context(), Request{ID: "c", PID: s.pid, Ports: ports}); err != nil {
					bm.Fatal(err)
				}
				must(bm, b.Detach(bm.Context(), "c"))
				bm.StopTimer()
				b.host.reaper.awaitAll() // the namespace is used again, and can have one eth0 only
				bm.StartTimer()
			}
		})
	}
}
