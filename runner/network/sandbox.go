package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/runner/network/netns"
)

// Sandbox is a network namespace of this process's own making on the bridge, for programs that someone else starts in
// it: build steps. It has loopback, eth0 and a default route, and, as in Docker's containers, every user in it may
// bind any port and ping. Nothing on the host names it: it ends with Close, or with this process, however that ends,
// and the last program in it.
type Sandbox struct {
	network *Network
	lease   lease
	ns      *os.File
}

// NewSandbox makes a namespace and connects it. Like Attach, it makes the bridge and the table when they are missing.
func (n *Network) NewSandbox(ctx context.Context) (_ *Sandbox, err error) {
	n.host.whole.RLock()
	defer n.host.whole.RUnlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("making a sandbox on network %s: %w", n.cfg.Name, err)
		}
	}()
	ns, err := n.newNamespace()
	if err != nil {
		return nil, err
	}
	l, err := n.attach(ctx, lease{ID: "sandbox-" + rand.Text(), fleeting: true}, ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Sandbox{network: n, lease: l, ns: ns}, nil
}

// Path names the namespace for an OCI runtime on this host, until Close.
func (s *Sandbox) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.Fd()) }

// Statistics counts what has passed by the host's end of the wire: what it has received, the sandbox has sent.
func (s *Sandbox) Statistics() (*netlink.LinkStatistics, error) {
	link, err := netlink.LinkByName(vethName(s.network.cfg.Device, s.lease))
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
	inside := netns.OnThread(func() error {
		if err := netns.Enter(s.ns); err != nil {
			return err
		}
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, inside
}

// Close disconnects the sandbox and frees its address. Programs that still run in it lose their network.
func (s *Sandbox) Close() error {
	return errors.Join(s.network.Detach(context.Background(), s.lease.ID), s.ns.Close())
}

// newNamespace returns a network namespace in which nothing is but loopback.
func (n *Network) newNamespace() (ns *os.File, err error) {
	if n.host.opts.Namespace != nil {
		if ns, err = n.host.opts.Namespace(); err != nil {
			n.log.Debug("a sandbox has a network namespace that emulated programs don't own", "reason", err)
		}
	}
	err = netns.OnThread(func() error {
		if ns != nil {
			err = netns.Enter(ns)
		} else if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		if err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		return openToAll() // never in the host's
	})
	if err != nil && ns != nil {
		ns.Close()
	}
	return ns, err
}

// openToAll lets every user of this thread's network namespace bind low ports and ping, as Docker's
// containers do.
func openToAll() error {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
	} {
		if _, err := setSysctl(path, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
