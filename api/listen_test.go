package api

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// Requests that are over between two looks at the server count as its use, however short they are.
func TestUsed(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/sock")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, handler(), NewBuild(nil, grpc.NewServer()))
	defer s.Close()
	quiet := func() bool { return s.Used().Equal(s.Used()) }
	begun := s.Used()
	if !quiet() {
		t.Error("the server says that it is in use before anybody has come")
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, l.Addr().Network(), l.Addr().String())
	}}
	res, err := (&http.Client{Transport: transport}).Get("http://gantry/_ping")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if quiet() {
		t.Error("an open connection is no use")
	}
	transport.CloseIdleConnections()
	for deadline := time.Now().Add(10 * time.Second); !quiet(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection is use for ever")
		}
	}
	if !s.Used().After(begun) {
		t.Error("a request that is over was no use")
	}
}
