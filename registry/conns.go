package registry

import (
	"net"
	"net/http"
	"sync"
)

// fresh knows the connections on which no request has come yet. Clients open
// some in advance; http.Server.Shutdown would give each five seconds to say
// something before it takes it for idle (net/http/server.go, Go 1.26).
type fresh struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// track is for http.Server.ConnState.
func (f *fresh) track(c net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state != http.StateNew {
		delete(f.conns, c)
		return
	}
	if f.conns == nil {
		f.conns = map[net.Conn]struct{}{}
	}
	f.conns[c] = struct{}{}
}

// hangUp is for http.Server.RegisterOnShutdown.
func (f *fresh) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		// The other end may have gone already, which is as good.
		_ = c.Close()
	}
}
