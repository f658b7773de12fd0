package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	icmp4 "golang.org/x/net/ipv4"
)

// headers4 is what IPv4 and ICMP have before the data of an echo.
const headers4 = 20 + 8

// Ping sends an ICMP echo (RFC 792) of so many bytes, with its headers, from one of this machine's IPv4 addresses to another, and
// returns how long the answer has taken.
func Ping(ctx context.Context, from, to netip.Addr, size int, atMost time.Duration) (time.Duration, error) {
	conn, err := icmp.ListenPacket("ip4:icmp", from.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	id, began := int(time.Now().UnixNano()&0xffff), time.Now()
	m := icmp.Message{Type: icmp4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: make([]byte, max(size-headers4, 0))}}
	data, err := m.Marshal(nil)
	if err == nil {
		err = conn.SetDeadline(began.Add(atMost))
	}
	if err == nil {
		_, err = conn.WriteTo(data, &net.IPAddr{IP: to.AsSlice()})
	}
	if err != nil {
		return 0, err
	}
	for buf := make([]byte, 1<<16); ; {
		n, peer, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, fmt.Errorf("no answer from %s in %s", to, atMost)
		}
		if err != nil {
			return 0, err
		}
		got, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || got.Type != icmp4.ICMPTypeEchoReply || peer.String() != to.String() {
			continue
		}
		if echo, ok := got.Body.(*icmp.Echo); ok && echo.ID == id {
			return time.Since(began), nil
		}
	}
}
