package dns

import (
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
	"github.com/gantry-build/gantry/runner/network/netns"
)

// A server inside a namespace answers at Docker's address, by UDP and TCP, also after another process has left its table
// there, and leaves port 53 to the container.
func TestServeInside(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Miss(t, "needs root for network namespaces")
	}
	var ns *os.File
	err := netns.OnThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var table Table
	table.Set("a", []string{"web"}, addrs("10.0.0.1"))
	for range 3 {
		s, err := ServeInside(ns, &View{Networks: []Network{{"n", &table}}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"udp", "tcp"} {
			err := netns.Do(ns, func() error {
				conn, err := dns.Dial(network, net.JoinHostPort(Address, "53"))
				if err != nil {
					return err
				}
				defer conn.Close()
				if err := conn.WriteMsg(new(dns.Msg).SetQuestion("web.", dns.TypeA)); err != nil {
					return err
				}
				m, err := conn.ReadMsg()
				if err == nil && said(m) != "NOERROR A 10.0.0.1" {
					t.Errorf("%s: %s", network, said(m))
				}
				return err
			})
			if err != nil {
				t.Errorf("%s: %v", network, err)
			}
		}
		err = netns.Do(ns, func() error {
			l, err := net.Listen("tcp4", "0.0.0.0:53")
			if err == nil {
				err = l.Close()
			}
			return err
		})
		if err != nil {
			t.Errorf("the container's own server: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
