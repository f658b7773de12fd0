package api

import (
	"context"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/shim"
	"github.com/gantry-build/gantry/internal/need"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/runner"
	"github.com/gantry-build/gantry/runner/network"
)

// The test's own program is its shim, its daemon and the only file of its image.
func TestMain(m *testing.M) {
	switch {
	case shim.Called():
		shim.Run()
	case os.Getenv("GANTRY_TEST_GUEST") != "":
		os.Exit(guest(os.Args[1:]))
	case os.Getenv("GANTRY_TEST_DAEMON") != "":
		os.Exit(daemonMain(os.Getenv("GANTRY_TEST_DAEMON")))
	}
	os.Exit(m.Run())
}

// guest is what runs in the test's containers.
func guest(args []string) int {
	verb, arg := args[0], append(args[1:], "")[0]
	switch verb {
	case "echo":
		fmt.Println(strings.Join(args[1:], " "))
	case "leave": // a child that holds the output
		child := exec.Command("/guest", "sleep")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(strings.Repeat("x", 300_000))
		return 3
	case "both":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "cat":
		n, _ := io.Copy(os.Stdout, os.Stdin)
		fmt.Fprintf(os.Stderr, "%d bytes\n", n)
	case "big":
		fmt.Print(strings.Repeat("x", 4<<20))
	case "exit":
		n, _ := strconv.Atoi(arg)
		return n
	case "file":
		data, err := os.ReadFile(arg)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		os.Stdout.Write(data)
	case "write":
		if err := os.WriteFile(arg, []byte(args[2]), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "id":
		fmt.Println(os.Getuid(), os.Getgid(), os.Getenv("HOME"))
	case "tick": // until SIGTERM, which it tells
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		for i := 0; ; i++ {
			fmt.Println("tick", i)
			select {
			case <-stop:
				fmt.Println("bye")
				return 3
			case <-time.After(50 * time.Millisecond):
			}
		}
	case "serve":
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from the container") })
		fmt.Println(http.ListenAndServe(arg, h))
		return 1
	case "sleep": // deaf to SIGTERM, as process 1 without a handler is
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		time.Sleep(time.Hour)
	}
	return 0
}

// native says that everything runs here.
type native struct{}

func (native) Way(p ocispec.Platform) (qemu.Way, error) {
	return qemu.Way{Platform: p, Mode: qemu.Native}, nil
}

// daemon is store, runner and API on a socket.
type daemon struct {
	store  *cache.Store
	net    *network.Host
	runner *runner.Manager
	http   *http.Server
}

func startDaemon(ctx context.Context, dir string) (_ *daemon, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	link := filepath.Join(dir, shim.Name)
	if err := os.Symlink(self, link); err != nil && !os.IsExist(err) {
		return nil, err
	}
	d := &daemon{}
	d.store, err = cache.Start(ctx, cache.Options{Root: dir + "/r", State: dir + "/s", Shim: link, Runc: os.Getenv("GANTRY_TEST_RUNC")})
	if err != nil {
		return nil, err
	}
	mark := filepath.Base(dir)
	d.net, err = network.Open(ctx, network.Options{
		Name: "gt" + mark, Table: "gt_" + mark, State: dir + "/n", Subnet: netip.MustParsePrefix("10.213.77.0/24"),
	})
	if err != nil {
		return nil, err
	}
	d.runner, err = runner.Start(ctx, runner.Options{Root: dir + "/r", State: dir + "/s", Store: d.store, Qemu: native{}, Network: d.net})
	if err != nil {
		return nil, err
	}
	_ = os.Remove(dir + "/sock")
	l, err := net.Listen("unix", dir+"/sock")
	if err != nil {
		return nil, err
	}
	d.http = &http.Server{Handler: New(Options{Runner: d.runner, Version: "test", Root: dir})}
	go func() { _ = d.http.Serve(l) }()
	return d, nil
}

func (d *daemon) Close() {
	_ = d.http.Close()
	_ = d.runner.Close()
	_ = d.net.Close()
	d.store.Close()
}

// daemonMain is a daemon that a test can kill. It says when it is ready.
func daemonMain(dir string) int {
	d, err := startDaemon(context.Background(), dir)
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	d.Close()
	return 0
}

// testDir is a short directory, since sockets lie below it, whose name no other run has.
func testDir(t *testing.T) string {
	need.Root(t)
	if os.Getenv("GANTRY_TEST_RUNC") == "" {
		runc, err := filepath.Abs("../.cache/payload/" + runtime.GOARCH + "/runc")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("GANTRY_TEST_RUNC", need.File(t, runc, "payload"))
	}
	if dynamic(t, "/proc/self/exe") {
		need.Miss(t, "needs a static test program, as it is all that the test's image holds: CGO_ENABLED=0 go test")
	}
	dir, err := os.MkdirTemp("/tmp", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func dynamic(t *testing.T, program string) bool {
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// run starts a daemon with the test's image and returns it with a client.
func run(t *testing.T) (*daemon, *client.Client) {
	dir := testDir(t)
	d, err := startDaemon(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sweep(t, d)
		d.Close()
	})
	writeImage(t, d.store)
	return d, connect(t, dir)
}

// sweep removes what a test has left, and the network.
func sweep(t *testing.T, d *daemon) {
	ctx := context.Background()
	for _, rec := range d.runner.List() {
		if err := d.runner.Remove(ctx, rec.ID, runner.RemoveOptions{Force: true, Volumes: true}); err != nil {
			t.Error(err)
		}
	}
	if err := d.net.Clear(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, dir string) *client.Client {
	c, err := client.New(client.WithHost("unix://" + dir + "/sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
