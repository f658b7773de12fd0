package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sandbox is a network namespace of this process's own making on the bridge, for programs that someone else starts in
// it: build steps. It has loopback, eth0 and a default route, and, as in Docker's containers, every user in it may
// bind any port and ping. Nothing on the host names it: it ends with Close, or with this process, however that ends,
// and the last program in it.
type Sandbox struct {
	bridge *Bridge
	lease  lease
	ns     *os.File
}

// NewSandbox makes a namespace and connects it. Like Attach, it makes the bridge and the table when they are missing.
func (b *Bridge) NewSandbox(ctx context.Context) (_ *Sandbox, err error) {
	b.whole.RLock()
	defer b.whole.RUnlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("making a sandbox on network %s: %w", b.opts.Name, err)
		}
	}()
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	l, err := b.attach(ctx, lease{ID: "sandbox-" + rand.Text(), fleeting: true}, ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Sandbox{bridge: b, lease: l, ns: ns}, nil
}

// Path names the namespace for an OCI runtime on this host, until Close.
func (s *Sandbox) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.Fd()) }

// Statistics counts what has passed by the host's end of the wire: what it has received, the sandbox has sent.
func (s *Sandbox) Statistics() (*netlink.LinkStatistics, error) {
	link, err := netlink.LinkByName(vethName(s.bridge.opts.Name, s.lease))
	if err != nil {
		return nil, fmt.Errorf("counting a sandbox's traffic: %w", err)
	}
	return link.Attrs().Statistics, nil
}

// DialContext connects as a program in the sandbox would. Names are resolved as on the host.
func (s *Sandbox) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	// One address after the other: the dialer would try IPv4 and IPv6 side by side in other goroutines, on threads
	// outside the sandbox.
	d := net.Dialer{FallbackDelay: -1}
	inside := onThread(func() error {
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a sandbox: %w", err)
		}
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, inside
}

// Close disconnects the sandbox and frees its address. Programs that still run in it lose their network.
func (s *Sandbox) Close() error {
	return errors.Join(s.bridge.Detach(context.Background(), s.lease.ID), s.ns.Close())
}

// openToAll are the settings with which Docker's containers let every user bind low ports and ping.
var openToAll = map[string]string{
	"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
	"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
}

// newNamespace returns a network namespace in which nothing is but loopback.
func newNamespace() (ns *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		for path, value := range openToAll {
			if _, err := setSysctl(path, value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// onThread calls f on a thread that may leave the host's network namespace, and brings it back.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
		done <- err
	}()
	return <-done
}
