package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
	"github.com/gantry-build/gantry/runner/network/netns"
)

// The tests run in a network namespace of their own, which plays the host: the machine's own devices, tables and
// settings stay untouched, and whatever a failed test leaves ends with the process.
const (
	roleVar     = "GANTRY_NETWORK_TEST_ROLE"
	roleHost    = "host"
	roleSandbox = "sandbox"
)

const (
	hostAddr      = "198.51.100.1"
	neighbourAddr = "198.51.100.2"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case roleSandbox:
		_, _ = io.Copy(io.Discard, os.Stdin) // a container's first process: ends when its test closes the pipe
		os.Exit(0)
	case roleHost:
		if err := linkUp("lo"); err != nil {
			fmt.Fprintln(os.Stderr, "starting loopback:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	os.Exit(inNewHost())
}

func inNewHost() int {
	runtime.LockOSThread() // the death signal below is bound to this thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleHost)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the tests in a network namespace:", err)
		return 1
	}
	return 0
}

func needHost(t testing.TB) {
	t.Helper()
	if os.Getenv(roleVar) == roleHost {
		return
	}
	need.Miss(t, "needs root for network namespaces")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// sandbox is a process with a network namespace of its own.
type sandbox struct {
	t   testing.TB
	pid int
	ns  *os.File
}

func newSandbox(t testing.TB, flags uintptr) *sandbox {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+roleSandbox)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		whole := []syscall.SysProcIDMap{{Size: 65536}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = whole, whole
	}
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	ns, err := os.Open(sandboxPath(cmd.Process.Pid))
	must(t, err)
	t.Cleanup(func() {
		in.Close()
		ns.Close()
		_ = cmd.Wait()
	})
	return &sandbox{t, cmd.Process.Pid, ns}
}

// do runs f on a thread inside the sandbox; sockets opened by f stay there.
func (s *sandbox) do(f func() error) error {
	return netns.OnThread(func() error {
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// dial is net.Dialer.DialContext from inside the sandbox; a nil sandbox is the host.
func (s *sandbox) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: time.Second}
	if s == nil {
		return d.DialContext(ctx, network, addr)
	}
	err = s.do(func() (err error) {
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// serve answers HTTP with the peer's address, until the test ends. A nil sandbox is the host.
func (s *sandbox) serve(t testing.TB, addr string) {
	t.Helper()
	families := []string{"tcp4"}
	if strings.HasPrefix(addr, ":") {
		families = append(families, "tcp6")
	}
	for _, family := range families {
		var ln net.Listener
		listen := func() (err error) {
			ln, err = net.Listen(family, addr)
			return err
		}
		if s == nil {
			must(t, listen())
		} else {
			must(t, s.do(listen))
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, netip.MustParseAddrPort(r.RemoteAddr).Addr().String())
		})}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(ln) }()
		t.Cleanup(func() { srv.Close(); <-done })
	}
}

// get asks a server which peer address it sees.
func (s *sandbox) get(addr string) (peer string, err error) {
	client := http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DialContext: s.dial, DisableKeepAlives: true},
	}
	res, err := client.Get("http://" + addr + "/")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// newNeighbour makes another machine on the host's wire, which is also the host's way out.
func newNeighbour(t testing.TB) *sandbox {
	t.Helper()
	n := newSandbox(t, 0)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink0"
	uplink := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(n.ns.Fd()))}
	must(t, netlink.LinkAdd(uplink))
	t.Cleanup(func() { _ = netlink.LinkDel(uplink) })
	must(t, addressAndUp("uplink0", hostAddr))
	must(t, n.do(func() error { return addressAndUp("eth0", neighbourAddr) }))
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(neighbourAddr)}))
	return n
}

func addressAndUp(name, addr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	p := netip.PrefixFrom(netip.MustParseAddr(addr), 24)
	return errors.Join(netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p)}), netlink.LinkSetUp(link))
}
