package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

func configOf(id string, change ...func(*Config)) Config {
	c := Config{ID: id, Name: id, Driver: DriverBridge, IPv4: true, ICC: true, Masquerade: true}
	for _, f := range change {
		f(&c)
	}
	return c
}

func dual(c *Config)     { c.IPv6 = true }
func internal(c *Config) { c.Internal = true }
func apart(c *Config)    { c.ICC = false }

// newNetwork makes a network beside the default one.
func newNetwork(t testing.TB, h *Host, c Config) *Network {
	t.Helper()
	c, err := h.Create(t.Context(), c)
	must(t, err)
	n, ok := h.Network(c.ID)
	if !ok {
		t.Fatalf("network %s was made and is not there", c.ID)
	}
	t.Cleanup(func() {
		if err := h.Remove(context.WithoutCancel(t.Context()), c.ID); err != nil {
			t.Error(err)
		}
	})
	return n
}

func cut(t *testing.T, what string, from *sandbox, addr string) {
	t.Helper()
	if got, err := from.get(addr); err == nil {
		t.Errorf("%s: %s answered %q", what, addr, got)
	}
}

func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// Networks are apart, but for ports that are published; an internal one has no way out; where containers are not to
// reach each other they don't; all of it on IPv4 and IPv6, and whether or not bridged packets pass the firewall.
func TestIsolation(t *testing.T) {
	needHost(t)
	const bridged = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	for _, through := range []string{"0", "1"} {
		t.Run("bridge-nf-call="+through, func(t *testing.T) {
			for _, file := range []string{bridged, strings.Replace(bridged, "iptables", "ip6tables", 1)} {
				if _, err := setSysctl(file, through); err != nil {
					t.Logf("not tested: %v", err) // a kernel without br_netfilter has only one way
				}
			}
			isolation(t, through == "1")
		})
	}
}

func isolation(t *testing.T, bridgedPass bool) {
	neighbour := newNeighbour(t)
	neighbour.serve(t, ":80")
	h := openBridge(t, testOptions(t)).host
	one, two := newNetwork(t, h, configOf("one", dual)), newNetwork(t, h, configOf("two", dual))
	inner, shy := newNetwork(t, h, configOf("inner", dual, internal)), newNetwork(t, h, configOf("shy", dual, apart))
	a, _ := attach(t, one, "a")
	b, bEnd := attach(t, one, "b", Port{HostPort: 8080, ContainerPort: 80})
	other, _ := attach(t, two, "other")
	hidden, _ := attach(t, inner, "hidden")
	hiddenToo, hiddenEnd := attach(t, inner, "hiddenToo")
	shyOne, _ := attach(t, shy, "shyOne")
	shyTwo, shyEnd := attach(t, shy, "shyTwo", Port{HostPort: 8081, ContainerPort: 80})
	for _, s := range []*sandbox{b, hiddenToo, shyTwo} {
		s.serve(t, ":80")
	}
	for _, six := range []bool{false, true} {
		addr := func(e Endpoint) netip.Addr {
			if six {
				return e.IP6
			}
			return e.IP
		}
		family := map[bool]string{false: "IPv4 ", true: "IPv6 "}[six]
		wantPeer(t, family+"one network", a, at(addr(bEnd), 80), "")
		cut(t, family+"another network", other, at(addr(bEnd), 80))
		wantPeer(t, family+"internal network", hidden, at(addr(hiddenEnd), 80), "")
		cut(t, family+"into the internal network", a, at(addr(hiddenEnd), 80))
		cut(t, family+"out of the internal network", hidden, at(addr(bEnd), 80))
		cut(t, family+"containers apart", shyOne, at(addr(shyEnd), 80))
		wantPeer(t, family+"the host", nil, at(addr(bEnd), 80), "")
	}
	gateway, gateway6 := two.Gateway(), bEnd.Gateway6
	wantPeer(t, "a published port from another network", other, at(gateway, 8080), "")
	wantPeer(t, "a published port by IPv6", nil, at(gateway6, 8080), "")
	wantPeer(t, "a published port by IPv6 from another network", other, at(gateway6, 8080), "")
	wantPeer(t, "a published port from its own network", a, at(gateway, 8080), "")
	if !bridgedPass { // else the kernel translates before it bridges, and the ports of the bridge stay apart
		wantPeer(t, "a published port of containers apart", shyOne, at(gateway, 8081), "")
	}
	wantPeer(t, "out", a, neighbourAddr+":80", hostAddr)
	wantPeer(t, "out of containers apart", shyOne, neighbourAddr+":80", hostAddr)
	cut(t, "out of an internal network", hidden, neighbourAddr+":80")
	must(t, h.Remove(t.Context(), "two"))
	wantPeer(t, "after another network's end", a, at(bEnd.IP, 80), "")
	wantPeer(t, "a published port after another network's end", neighbour, hostAddr+":8080", "")
}

// A container is on several networks, comes and goes, and has its way out by the one that is said.
func TestSeveralNetworks(t *testing.T) {
	needHost(t)
	h := openBridge(t, testOptions(t)).host
	one, two := newNetwork(t, h, configOf("one")), newNetwork(t, h, configOf("two", dual))
	s, first := attach(t, one, "c", Port{HostPort: 8080, ContainerPort: 80})
	s.serve(t, ":80")
	second, err := two.Attach(t.Context(), Request{ID: "c", PID: s.pid, MAC: net.HardwareAddr{2, 0, 0, 1, 2, 3},
		Sysctls: []string{"net.ipv4.conf.IFNAME.log_martians=1"}})
	must(t, err)
	if first.Interface != "eth0" || second.Interface != "eth1" {
		t.Errorf("interfaces %s and %s", first.Interface, second.Interface)
	}
	if got := routes(t, s); got != first.Gateway.String()+" "+second.Gateway6.String() {
		t.Errorf("default routes %s: the first network that has one gives it", got)
	}
	must(t, SetGateways(s.pid, second.Gateway, second.Gateway6))
	must(t, SetGateways(s.pid, second.Gateway, second.Gateway6))
	if got := routes(t, s); got != second.Gateway.String()+" "+second.Gateway6.String() {
		t.Errorf("default routes %s, want the second network's", got)
	}
	must(t, s.do(func() error {
		link, err := netlink.LinkByName("eth1")
		if err == nil && link.Attrs().HardwareAddr.String() != "02:00:00:01:02:03" {
			err = fmt.Errorf("MAC address %s", link.Attrs().HardwareAddr)
		}
		return err
	}))
	moved, err := one.Publish(t.Context(), "c", nil)
	must(t, err)
	if len(moved.Ports) > 0 {
		t.Errorf("still published: %v", moved.Ports)
	}
	cut(t, "a withdrawn port", nil, "127.0.0.1:8080")
	moved, err = two.Publish(t.Context(), "c", first.Ports)
	must(t, err)
	wantPeer(t, "a port that has moved", nil, "127.0.0.1:8080", second.Gateway.String())
	if _, err := two.Publish(t.Context(), "c", []Port{{HostIP: netip.MustParseAddr("203.0.113.77"), ContainerPort: 80}}); err == nil {
		t.Error("a port on an address that is not the host's")
	}
	wantPeer(t, "after a refused change", nil, "127.0.0.1:8080", "")
	must(t, one.Disconnect(t.Context(), "c"))
	must(t, two.Disconnect(t.Context(), "c"))
	must(t, s.do(func() error {
		links, err := netlink.LinkList()
		if err == nil && len(links) != 1 {
			err = fmt.Errorf("%d interfaces left", len(links))
		}
		return err
	}))
}

// routes are the gateways of a sandbox's default routes.
func routes(t *testing.T, s *sandbox) string {
	t.Helper()
	var found []string
	must(t, s.do(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := netlink.RouteList(nil, family)
			if err != nil {
				return err
			}
			for _, r := range all {
				if r.Gw != nil {
					found = append(found, r.Gw.String())
				}
			}
		}
		return nil
	}))
	return strings.Join(found, " ")
}

func TestCreate(t *testing.T) {
	needHost(t)
	h := openBridge(t, testOptions(t)).host
	subnet := func(s string) func(*Config) {
		return func(c *Config) { c.IPAM = append(c.IPAM, ipam.Config{Subnet: netip.MustParsePrefix(s)}) }
	}
	first := newNetwork(t, h, configOf("first", subnet("10.7.0.0/24"), subnet("10.7.1.0/30")))
	for want, c := range map[string]Config{
		"Pool overlaps with other one on this address space": configOf("second", subnet("10.7.0.128/25")),
		"networks have same bridge name":                     configOf("third", func(c *Config) { c.Device = first.Device() }),
		"invalid subnet 10.8.0.1/24":                         configOf("fourth", subnet("10.8.0.1/24")),
		"IPv6 is not enabled":                                configOf("fifth", subnet("fd01::/64")),
		"IPv4 or IPv6 must be enabled":                       configOf("sixth", func(c *Config) { c.IPv4 = false }),
		"bridge name":                                        configOf("seventh", func(c *Config) { c.Device = "../x" }),
		"unknown driver":                                     configOf("eighth", func(c *Config) { c.Driver = "weave" }),
		"unknown macvlan mode": configOf("ninth",
			func(c *Config) { c.Driver, c.Mode = DriverMacvlan, "odd" }),
	} {
		_, err := h.Create(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", want, err)
		}
		if _, ok := h.Network(c.ID); ok {
			t.Errorf("%s: the network is there", want)
		}
	}
	if a, b := newNetwork(t, h, configOf("left", dual)), newNetwork(t, h, configOf("right", dual)); a.Subnet().Overlaps(b.Subnet()) ||
		a.subnets()[1].Overlaps(b.subnets()[1]) {
		t.Errorf("both chose %v", a.subnets())
	}
	s := newSandbox(t, 0)
	for ip, is := range map[string]func(error) bool{"10.7.0.1": errdefs.IsPermissionDenied, "10.9.0.1": errdefs.IsInvalidArgument} {
		if _, err := first.Attach(t.Context(), Request{ID: "c", PID: s.pid, IP: netip.MustParseAddr(ip)}); !is(err) {
			t.Errorf("%s: %v", ip, err)
		}
	}
	ep, err := first.Attach(t.Context(), Request{ID: "c", PID: s.pid, IP: netip.MustParseAddr("10.7.1.2"), Interface: "lan"})
	must(t, err)
	if ep.IP.String() != "10.7.1.2" || ep.PrefixLen != 30 || ep.Gateway.String() != "10.7.1.1" || ep.Interface != "lan" {
		t.Errorf("%+v", ep)
	}
}

// What a killed daemon leaves of several networks is taken up, and what nobody needs any more goes.
func TestRestoreNetworks(t *testing.T) {
	needHost(t)
	opts := testOptions(t)
	h := openBridge(t, opts).host
	one, two := newNetwork(t, h, configOf("one", dual)), newNetwork(t, h, configOf("two"))
	web, ep := attach(t, one, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serve(t, ":80")
	attach(t, two, "gone", Port{HostPort: 8081, ContainerPort: 80})
	must(t, h.Close())

	again := openBridge(t, opts).host
	for _, n := range []*Network{one, two} {
		c := n.cfg
		must(t, again.Add(c))
		t.Cleanup(func() { must(t, again.Remove(context.WithoutCancel(t.Context()), c.ID)) })
	}
	lost, err := h.Create(t.Context(), configOf("lost")) // of which its record was never written
	must(t, err)
	must(t, again.Restore(t.Context(), map[string][]string{"one": {"web"}}))
	if exists(lost.Device) {
		t.Errorf("%s of a network that nobody knows is left", lost.Device)
	}
	n, _ := again.Network("one")
	if got, ok := n.Endpoint("web"); !ok || got.IP != ep.IP || got.IP6 != ep.IP6 {
		t.Errorf("restored %+v, want %+v", got, ep)
	}
	wantPeer(t, "after a restart", nil, "127.0.0.1:8080", "")
	other, _ := again.Network("two")
	if es, vs := elements(t, n), veths(t, other); len(es) != 2 || len(vs) != 0 { // of IPv4 and IPv6
		t.Errorf("elements %q, interfaces of a container that is gone %q", es, vs)
	}
}

// Hundreds of containers come and go on one network and leave nothing: no interface, element, lease or address.
func TestNothingIsLost(t *testing.T) {
	needHost(t)
	h := openBridge(t, testOptions(t)).host
	n := newNetwork(t, h, configOf("one", dual))
	var g errgroup.Group
	for worker := range 4 {
		s := newSandbox(t, 0)
		g.Go(func() error {
			for i := range 75 {
				id := fmt.Sprint("c", worker, "-", i)
				_, err := n.Attach(t.Context(), Request{ID: id, PID: s.pid, Ports: []Port{{ContainerPort: 80}}})
				if err == nil {
					err = n.Disconnect(t.Context(), id)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	taken, _ := n.Usage(n.Subnet())
	files, _ := os.ReadDir(n.store.leaseDir())
	if es, vs, ls := elements(t, n), veths(t, n), n.snapshot(); len(es)+len(vs)+len(ls)+len(files) > 0 || taken != 3 ||
		len(h.ports.held) > 0 {
		t.Errorf("left: elements %q, interfaces %v, leases %v, files %v, addresses %d, ports %v", es, vs, ls, files, taken, h.ports.held)
	}
}

// Networks on a device of the host: containers reach each other and the device's neighbours.
func TestParent(t *testing.T) {
	needHost(t)
	for _, driver := range []string{DriverMacvlan, DriverIPvlan} {
		t.Run(driver, func(t *testing.T) {
			neighbour := newNeighbour(t)
			neighbour.serve(t, ":80")
			if lacking := missing(driver); lacking {
				refused(t, driver)
				return
			}
			h := openBridge(t, testOptions(t)).host
			lan := ipam.Config{Subnet: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr(neighbourAddr),
				Range: netip.MustParsePrefix("198.51.100.64/26")}
			n := newNetwork(t, h, configOf("lan", func(c *Config) { c.Driver, c.Parent, c.IPAM = driver, "uplink0", []ipam.Config{lan} }))
			a, _ := attach(t, n, "a")
			b, end := attach(t, n, "b")
			b.serve(t, ":80")
			wantPeer(t, "each other", a, at(end.IP, 80), "")
			wantPeer(t, "the neighbour", a, neighbourAddr+":80", "")
			wantPeer(t, "from the neighbour", neighbour, at(end.IP, 80), neighbourAddr)
			must(t, n.Detach(t.Context(), "b"))
			cut(t, "after its end", a, at(end.IP, 80))
			c, err := h.Create(t.Context(), configOf("vlan", func(c *Config) { c.Driver, c.Parent = driver, "uplink0.7" }))
			if err == nil {
				vlan, _ := h.Network(c.ID)
				attach(t, vlan, "c")
			} else if !strings.Contains(err.Error(), "the kernel lacks 8021q") {
				t.Errorf("a VLAN: %v", err)
			}
			must(t, h.Remove(t.Context(), "vlan"))
			must(t, n.Detach(t.Context(), "a"))
			must(t, h.Remove(t.Context(), "lan"))
			if exists("uplink0.7") || !exists("uplink0") {
				t.Error("a network's own device stays, or another's is gone")
			}
		})
	}
}

// missing says whether this kernel lacks a kind of devices.
func missing(driver string) bool {
	parent, err := netlink.LinkByName("uplink0")
	if err != nil {
		return false
	}
	attrs := netlink.LinkAttrs{Name: "probe", ParentIndex: parent.Attrs().Index}
	var link netlink.Link = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if driver == DriverIPvlan {
		link = &netlink.IPVlan{LinkAttrs: attrs}
	}
	if err := netlink.LinkAdd(link); err != nil {
		return unsupported(err)
	}
	return netlink.LinkDel(link) != nil
}

// refused: where the kernel lacks a driver's devices, the error says so.
func refused(t *testing.T, driver string) {
	t.Logf("this kernel has no %s: tested is that the error says so", driver)
	h := openBridge(t, testOptions(t)).host
	n := newNetwork(t, h, configOf("lan", func(c *Config) { c.Driver, c.Parent = driver, "uplink0" }))
	s := newSandbox(t, 0)
	_, err := n.Attach(t.Context(), Request{ID: "a", PID: s.pid})
	if err == nil || !strings.Contains(err.Error(), "the kernel lacks "+driver) {
		t.Errorf("%v", err)
	}
	if left := n.snapshot(); len(left) > 0 {
		t.Errorf("leases left: %v", left)
	}
}
