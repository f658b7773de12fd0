package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/gantry-build/gantry/runner/network/ipam"
)

// underlay gives the host a device with an address of its own below overlays.
func underlay(t testing.TB, addr string, mtu int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "below0", mtu
	link := &netlink.Bridge{LinkAttrs: attrs}
	must(t, netlink.LinkAdd(link))
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	must(t, addressAndUp("below0", addr))
}

func overlay(id, subnet string) Config {
	p := netip.MustParsePrefix(subnet)
	node := p.Addr().Next().Next()
	return Config{
		ID: id, Name: id, Driver: DriverOverlay, IPv4: true, ICC: true, Masquerade: true, IPAM: []ipam.Config{{Subnet: p}},
		Overlay: &Overlay{Number: 5000, Local: netip.MustParseAddr("192.0.2.1"), Port: 4789, Node: []netip.Addr{node}},
	}
}

func peers(texts ...string) (all []Peer) {
	for i := 0; i < len(texts); i += 2 {
		all = append(all, Peer{Addr: netip.MustParseAddr(texts[i]), At: netip.MustParseAddr(texts[i+1])})
	}
	return all
}

// The kernel knows where each address of an overlay network is, nothing more, and again when somebody has changed it.
func TestOverlay(t *testing.T) {
	needHost(t)
	underlay(t, "192.0.2.1", 1400)
	h := openBridge(t, testOptions(t)).host
	c, err := h.Create(t.Context(), overlay("one", "10.9.0.0/24"))
	must(t, err)
	if c.MTU != 1350 {
		t.Errorf("its MTU is %d", c.MTU)
	}
	n, _ := h.Network("one")
	has := func(want ...Peer) {
		t.Helper()
		have, err := n.programmed()
		must(t, err)
		same := len(have) == len(want)
		for _, p := range want {
			same = same && have[p.Addr] == p.remote()
		}
		if !same {
			t.Errorf("the kernel has %v, want %v", have, want)
		}
	}
	all := peers("10.9.0.10", "192.0.2.2", "10.9.0.11", "192.0.2.3")
	must(t, n.SetPeers(all))
	has(all...)
	both := append(peers("fd00::10", "192.0.2.2"), all...)
	both[0].As = all[0].Addr
	must(t, n.SetPeers(both))
	has(both...)
	must(t, n.SetPeers(all)) // and the MAC address that they have in common stays
	has(all...)
	moved := peers("10.9.0.10", "192.0.2.3")
	must(t, n.SetPeers(moved))
	has(moved...)
	repair := func(want int) {
		t.Helper()
		got, err := n.Repair(t.Context())
		if err != nil || got != want {
			t.Errorf("%d mistakes, %v; want %d", got, err, want)
		}
		has(moved...)
	}
	repair(0)
	link, err := netlink.LinkByName(vxlanName("one"))
	must(t, err)
	bridge, err := netlink.LinkByName(c.Device)
	must(t, err)
	must(t, n.way(bridge.Attrs().Index, moved[0].Addr, moved[0].remote(), true, netlink.NeighDel))
	must(t, n.way(bridge.Attrs().Index, netip.MustParseAddr("10.9.0.66"), moved[0].remote(), true, netlink.NeighSet))
	repair(2)
	must(t, netlink.LinkDel(link))
	repair(2) // the device, and the way

	must(t, h.Remove(t.Context(), "one"))
	links, err := netlink.LinkList()
	must(t, err)
	if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Type() == "vxlan" }) {
		t.Error("the VXLAN device is left")
	}
}

func TestOverlayRefusals(t *testing.T) {
	needHost(t)
	underlay(t, "192.0.2.1", 1280)
	h := openBridge(t, testOptions(t)).host
	two := overlay("two", "10.9.1.0/24")
	_, err := h.Create(t.Context(), two)
	must(t, err)
	same, lan, large, six, bare := overlay("a", "10.9.2.0/24"), overlay("b", "192.0.2.128/25"), overlay("c", "10.9.3.0/24"),
		overlay("d", "10.9.4.0/24"), overlay("e", "10.9.5.0/24")
	large.MTU = 1500
	six.IPv6, six.IPAM = true, append(six.IPAM, ipam.Config{Subnet: netip.MustParsePrefix("fd00:9::/64")})
	bare.Overlay = nil
	for want, c := range map[string]Config{
		"VXLAN 5000 is used on this machine": same, "which this machine has a route to": lan, "MTU 1500 is more than 1230": large,
		"IPv6 wants an MTU of 1280": six, "is made by a cluster": bare,
	} {
		if _, err := h.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", c.ID, err, want)
		}
		if _, there := h.Network(c.ID); there {
			t.Errorf("%s is there", c.ID)
		}
	}
}

// BenchmarkSetPeers is the cost of one more address on another node, with a thousand there.
func BenchmarkSetPeers(b *testing.B) {
	needHost(b)
	underlay(b, "192.0.2.1", 1500)
	h := openBridge(b, testOptions(b)).host
	_, err := h.Create(b.Context(), overlay("many", "10.9.0.0/16"))
	must(b, err)
	n, _ := h.Network("many")
	at := netip.MustParseAddr("192.0.2.2")
	all := make([]Peer, 0, 1001)
	for i := range 1001 {
		all = append(all, Peer{Addr: netip.AddrFrom4([4]byte{10, 9, byte(1 + i/200), byte(1 + i%200)}), At: at})
	}
	for b.Loop() {
		must(b, n.SetPeers(all))
		b.StopTimer()
		must(b, n.SetPeers(all[:1000]))
		b.StartTimer()
	}
}
