package network

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A sandbox is on the bridge, leaves no trace on disk, and is not touched by Restore.
func TestNewSandbox(t *testing.T) {
	needHost(t)
	n := newNeighbour(t)
	n.serve(t, neighbourAddr+":80")
	b := openBridge(t, testOptions(t))
	s, err := b.NewSandbox(t.Context())
	must(t, err)
	must(t, b.host.Restore(t.Context(), nil))

	ns, err := os.Open(s.Path())
	must(t, err)
	defer ns.Close()
	inside := &sandbox{t: t, ns: ns}
	var names []string
	must(t, inside.do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names = append(names, l.Name)
		}
		if port, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err != nil || string(port) != "0\n" {
			t.Errorf("the first port for every user: %q, %v", port, err)
		}
		return err
	}))
	if !slices.Equal(names, []string{"lo", "eth0"}) {
		t.Errorf("devices in the sandbox: %v", names)
	}
	if peer, err := inside.get(neighbourAddr + ":80"); err != nil || peer != hostAddr {
		t.Errorf("the neighbour sees %q, %v", peer, err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: s.DialContext, DisableKeepAlives: true}}
	res, err := client.Get("http://" + neighbourAddr + "/")
	must(t, err)
	peer, err := io.ReadAll(res.Body)
	must(t, err)
	res.Body.Close()
	if string(peer) != hostAddr {
		t.Errorf("dialled from the sandbox, the neighbour sees %q", peer)
	}
	if traffic, err := s.Statistics(); err != nil || traffic.RxBytes < 100 || traffic.TxBytes < 100 {
		t.Errorf("traffic %+v, %v", traffic, err)
	}
	if files, _ := filepath.Glob(filepath.Join(b.host.opts.State, "leases", "*")); len(files) > 0 {
		t.Errorf("written down: %v", files)
	}
	must(t, s.Close())
	if left := veths(t, b); len(left) > 0 {
		t.Errorf("left on the bridge: %v", left)
	}
	if left := b.snapshot(); len(left) > 0 {
		t.Errorf("leases left: %v", left)
	}
}

// Sandboxes come and go side by side.
func TestManySandboxes(t *testing.T) {
	needHost(t)
	b := openBridge(t, testOptions(t))
	done := make(chan error)
	for range 8 {
		go func() {
			for range 8 {
				s, err := b.NewSandbox(t.Context())
				if err == nil {
					err = s.Close()
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		must(t, <-done)
	}
	if left := veths(t, b); len(left) > 0 {
		t.Errorf("left on the bridge: %v", left)
	}
	if stray := strayThreads(t); len(stray) > 0 {
		t.Errorf("threads left in another network namespace: %v", stray)
	}
}

// strayThreads are this process's threads in another network namespace than the main thread's.
func strayThreads(t *testing.T) (stray []string) {
	here, err := os.Stat("/proc/self/ns/net")
	must(t, err)
	threads, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, thread := range threads {
		ns, err := os.Stat(filepath.Join("/proc/self/task", thread.Name(), "ns/net"))
		if err == nil && !os.SameFile(ns, here) {
			stray = append(stray, thread.Name())
		}
	}
	return stray
}

func BenchmarkSandbox(b *testing.B) {
	needHost(b)
	n := openBridge(b, testOptions(b))
	for b.Loop() {
		s, err := n.NewSandbox(b.Context())
		must(b, err)
		must(b, s.Close())
	}
}
