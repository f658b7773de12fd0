package dns

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// ttl of the answers from tables, in seconds, as Docker's.
	ttl = 600
	// patience is how long one server of the host is waited for.
	patience = 4 * time.Second
	// mostAsked bounds the questions of one container that wait for the host's servers.
	mostAsked = 1024
)

// Server answers one container, on UDP and TCP.
type Server struct {
	view  atomic.Pointer[View]
	udp   *dns.Server
	tcp   *dns.Server
	ended chan error
	asked chan struct{}
	log   *slog.Logger
}

// Serve answers at conn and at l, which it takes over, until Close. They were opened in the container's network
// namespace; the host's servers are asked from this process's own.
func Serve(conn net.PacketConn, l net.Listener, v *View, log *slog.Logger) *Server {
	s := &Server{ended: make(chan error, 2), asked: make(chan struct{}, mostAsked), log: log}
	s.view.Store(v)
	s.udp = &dns.Server{PacketConn: conn, Handler: s, UDPSize: dns.DefaultMsgSize}
	s.tcp = &dns.Server{Listener: l, Handler: s}
	ready := make(chan struct{}, 2)
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		srv.NotifyStartedFunc = func() { ready <- struct{}{} }
		go func() {
			err := srv.ActivateAndServe()
			select {
			case ready <- struct{}{}: // it may have failed before it was ready
			default:
			}
			s.ended <- err
		}()
	}
	for range 2 {
		<-ready
	}
	return s
}

// SetView changes what the container sees from the next question on.
func (s *Server) SetView(v *View) { s.view.Store(v) }

// Close ends the server, and returns when nothing of it runs any more.
func (s *Server) Close() error {
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	return errors.Join(err, <-s.ended, <-s.ended)
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	v := s.view.Load()
	answer := v.local(q)
	if answer == nil {
		answer = s.forward(v, q, w.RemoteAddr().Network())
	}
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
		answer.Truncate(size)
	}
	if err := w.WriteMsg(answer); err != nil {
		s.log.Debug("answering a container's question", "question", q.Question, "error", err)
	}
}

// local answers what the tables know; nil for the rest.
func (v *View) local(q *dns.Msg) *dns.Msg {
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		return nil
	}
	asked := q.Question[0]
	head := dns.RR_Header{Name: asked.Name, Class: dns.ClassINET, Rrtype: asked.Qtype, Ttl: ttl}
	if asked.Qtype == dns.TypePTR {
		a, ok := addrOf(asked.Name)
		if !ok {
			return nil
		}
		name, ok := v.nameOf(a)
		if !ok {
			return nil
		}
		return reply(q, &dns.PTR{Hdr: head, Ptr: dns.Fqdn(name)})
	}
	addrs, ok := v.lookup(asked.Name)
	if !ok {
		return nil
	}
	var records []dns.RR
	for _, a := range addrs {
		switch {
		case asked.Qtype == dns.TypeA && a.Is4():
			records = append(records, &dns.A{Hdr: head, A: a.AsSlice()})
		case asked.Qtype == dns.TypeAAAA && a.Is6():
			records = append(records, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
	// In turn: whoever takes the first spreads over all.
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return reply(q, records...)
}

func reply(q *dns.Msg, records ...dns.RR) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Answer = true, records
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(o.UDPSize(), false)
	}
	return m
}

// addrOf reads the address in a name below in-addr.arpa or ip6.arpa (RFC 1035, 3.5; RFC 3596, 2.5).
func addrOf(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(dns.CanonicalName(name))
	text := ""
	switch n := len(labels) - 2; {
	case n == 4 && labels[n] == "in-addr":
		slices.Reverse(labels[:n])
		text = strings.Join(labels[:n], ".")
	case n == 32 && labels[n] == "ip6":
		slices.Reverse(labels[:n])
		for group := range slices.Chunk(labels[:n], 4) {
			text += ":" + strings.Join(group, "")
		}
		text = text[1:]
	default:
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil && labels[len(labels)-1] == "arpa"
}

// forward asks the view's servers in turn, and answers what the first says that answers at all. Where there is no
// server nobody has the name; where none answers, nobody knows.
func (s *Server) forward(v *View, q *dns.Msg, network string) *dns.Msg {
	if len(v.Upstream) == 0 {
		return new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	}
	select {
	case s.asked <- struct{}{}:
		defer func() { <-s.asked }()
	default:
		s.log.Warn("a container asks more names than the host's servers answer", "waiting", mostAsked)
		return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
	}
	for _, at := range v.Upstream {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c := dns.Client{Net: network, Timeout: patience, UDPSize: dns.DefaultMsgSize}
		answer, _, err := c.ExchangeContext(ctx, q.Copy(), at.String())
		cancel()
		if err == nil && answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
			answer.Id = q.Id
			return answer
		}
		s.log.Debug("a name server does not answer", "server", at, "question", q.Question, "error", err)
	}
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}
