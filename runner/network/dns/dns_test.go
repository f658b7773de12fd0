package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// open serves a view on loopback, and returns the server with its address.
func open(t testing.TB, v *View) (*Server, string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(conn, l, v, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, conn.LocalAddr().String()
}

func ask(t testing.TB, network, at, name string, typ uint16) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	answer, _, err := c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), typ), at)
	if err != nil {
		t.Fatalf("%s by %s: %v", name, network, err)
	}
	return answer
}

// said is an answer in one line: its code, and its records sorted.
func said(m *dns.Msg) string {
	var all []string
	for _, rr := range m.Answer {
		all = append(all, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	slices.Sort(all)
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(all, ", "))
}

func addrs(all ...string) (parsed []netip.Addr) {
	for _, a := range all {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return parsed
}

// elsewhere is a name server that knows host.example, and is one of the host's.
func elsewhere(t testing.TB, known string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch name := strings.TrimSuffix(q.Question[0].Name, "."); {
		case known == "":
			m.Rcode = dns.RcodeServerFailure
		case name == "big.example": // many, and truncated on UDP
			for i := range 100 {
				rr, _ := dns.NewRR(fmt.Sprintf("big.example. 60 IN A 192.0.2.%d", i+1))
				m.Answer = append(m.Answer, rr)
			}
			if w.RemoteAddr().Network() == "udp" {
				m.Truncate(dns.MinMsgSize)
			}
		case name == known:
			rr, _ := dns.NewRR(known + ". 60 IN A 192.0.2.1")
			m.Answer = append(m.Answer, rr)
		default:
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	var ended sync.WaitGroup
	t.Cleanup(ended.Wait)
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: h}, {Listener: l, Handler: h}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		ended.Go(func() { _ = s.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

func TestAnswers(t *testing.T) {
	var front, rear Table
	front.Set("c1", []string{"Web", "4f5e6d7c8b9a", "www", "www"}, addrs("10.1.0.2", "fd00::2"))
	front.Set("c2", []string{"web2", "www"}, addrs("10.1.0.3"))
	rear.Set("c3", []string{"db", "web"}, addrs("10.2.0.2"))
	v := &View{
		Networks: []Network{{"Front", &front}, {"rear", &rear}}, Links: map[string]string{"database": "db"},
		Upstream: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), elsewhere(t, ""), elsewhere(t, "host.example")},
	}
	s, at := open(t, v)
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name string
			typ  uint16
			want string
		}{
			{"web", dns.TypeA, "NOERROR A 10.1.0.2"},
			{"WEB", dns.TypeA, "NOERROR A 10.1.0.2"},
			{"web", dns.TypeAAAA, "NOERROR AAAA fd00::2"},
			{"web2", dns.TypeAAAA, "NOERROR"}, // and not what a server of the host says
			{"web", dns.TypeMX, "NOERROR"},
			{"4f5e6d7c8b9a", dns.TypeA, "NOERROR A 10.1.0.2"},
			{"www", dns.TypeA, "NOERROR A 10.1.0.2, A 10.1.0.3"},
			{"web.front", dns.TypeA, "NOERROR A 10.1.0.2"},
			{"web.rear", dns.TypeA, "NOERROR A 10.2.0.2"},
			{"database", dns.TypeA, "NOERROR A 10.2.0.2"},
			{"2.0.1.10.in-addr.arpa", dns.TypePTR, "NOERROR PTR web.front."},
			{"2.0.2.10.in-addr.arpa", dns.TypePTR, "NOERROR PTR db.rear."},
			{"2." + strings.Repeat("0.", 29) + "d.f.ip6.arpa", dns.TypePTR, "NOERROR PTR web.front."},
			{"9.0.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
			{"host.example", dns.TypeA, "NOERROR A 192.0.2.1"},
			{"nobody", dns.TypeA, "NXDOMAIN"},
		} {
			if got := said(ask(t, network, at, c.name, c.typ)); got != c.want {
				t.Errorf("%s: %s %s: %q, want %q", network, c.name, dns.TypeToString[c.typ], got, c.want)
			}
		}
	}
	if m := ask(t, "udp", at, "big.example", dns.TypeA); !m.Truncated {
		t.Errorf("a large answer on UDP is whole: %d records", len(m.Answer))
	}
	if m := ask(t, "tcp", at, "big.example", dns.TypeA); len(m.Answer) != 100 {
		t.Errorf("a large answer on TCP has %d records", len(m.Answer))
	}
	first := map[string]bool{}
	for range 50 {
		first[ask(t, "udp", at, "www", dns.TypeA).Answer[0].String()] = true
	}
	if len(first) != 2 {
		t.Errorf("first of two addresses is always one: %v", first)
	}
	s.SetView(&View{Networks: []Network{{"rear", &rear}}, Upstream: []netip.AddrPort{elsewhere(t, "")}})
	for name, want := range map[string]string{"web": "NOERROR A 10.2.0.2", "host.example": "SERVFAIL"} {
		if got := said(ask(t, "udp", at, name, dns.TypeA)); got != want {
			t.Errorf("in another view: %s: %q, want %q", name, got, want)
		}
	}
	s.SetView(&View{}) // a network without a way out
	if got := said(ask(t, "udp", at, "host.example", dns.TypeA)); got != "NXDOMAIN" {
		t.Errorf("without servers: %q", got)
	}
}

// An answer that does not fit into what the asker can take is said to be cut off.
func TestManyAddresses(t *testing.T) {
	var table Table
	for i := range 100 {
		table.Set(fmt.Sprint(i), []string{"all"}, addrs(fmt.Sprintf("10.1.0.%d", i+1)))
	}
	_, at := open(t, &View{Networks: []Network{{"n", &table}}})
	m := ask(t, "udp", at, "all", dns.TypeA)
	if m.Compress = true; !m.Truncated || m.Len() > dns.MinMsgSize {
		t.Errorf("%d bytes, truncated: %v", m.Len(), m.Truncated)
	}
	if m := ask(t, "tcp", at, "all", dns.TypeA); len(m.Answer) != 100 {
		t.Errorf("%d records", len(m.Answer))
	}
}

func TestTable(t *testing.T) {
	var table Table
	table.Drop("nobody")
	look := func(name, want string) {
		t.Helper()
		got, ok := table.lookup(name)
		if fmt.Sprint(got) != want || ok != (want != "[]") {
			t.Errorf("%s: %v, %v; want %s", name, got, ok, want)
		}
	}
	table.Set("a", []string{"one", "shared"}, addrs("10.0.0.1"))
	table.Set("b", []string{"two", "shared", ""}, addrs("10.0.0.2"))
	look("shared", "[10.0.0.1 10.0.0.2]")
	table.Set("a", []string{"other"}, addrs("10.0.0.3"))
	look("shared", "[10.0.0.2]")
	look("one", "[]")
	look("other", "[10.0.0.3]")
	if _, ok := table.nameOf(netip.MustParseAddr("10.0.0.1")); ok {
		t.Error("an address that was given back has a name")
	}
	table.Set("c", []string{"three"}, addrs("10.0.0.3")) // the address has moved before its owner is dropped
	table.Drop("a")
	if name, _ := table.nameOf(netip.MustParseAddr("10.0.0.3")); name != "three" {
		t.Errorf("%q", name)
	}
	table.Drop("b")
	table.Drop("c")
	if len(table.owners)+len(table.byName)+len(table.byAddr) != 0 {
		t.Errorf("left: %+v", &table)
	}
}

// Nonsense does not end the server.
func FuzzServer(f *testing.F) {
	var table Table
	table.Set("a", []string{"web"}, addrs("10.0.0.1"))
	s, at := open(f, &View{Networks: []Network{{"n", &table}}})
	for _, name := range []string{"web.", "1.0.0.10.in-addr.arpa.", ".", "ip6.arpa."} {
		data, _ := new(dns.Msg).SetQuestion(name, dns.TypePTR).Pack()
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m dns.Msg
		if m.Unpack(data) == nil {
			_ = s.view.Load().local(&m)
		}
		conn, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if len(data) > 0 && len(data) < 60000 {
			_, _ = conn.Write(data)
		}
		if got := said(ask(t, "udp", at, "web", dns.TypeA)); got != "NOERROR A 10.0.0.1" {
			t.Errorf("%q", got)
		}
	})
}

// BenchmarkAnswer is how many answers a second one server gives: at least 20,000 are wanted.
func BenchmarkAnswer(b *testing.B) {
	var table Table
	for i := range 300 {
		table.Set(fmt.Sprint(i), []string{fmt.Sprint("c", i)}, addrs(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)))
	}
	_, at := open(b, &View{Networks: []Network{{"n", &table}}})
	question, _ := new(dns.Msg).SetQuestion("c7.", dns.TypeA).Pack()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("udp", at)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		buf := make([]byte, 512)
		for pb.Next() {
			if _, err = conn.Write(question); err == nil {
				_, err = conn.Read(buf)
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}
