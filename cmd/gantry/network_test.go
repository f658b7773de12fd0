package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// A step has a network of its own: nothing of the host's loopback answers, two platforms can listen on
// one port, and an emulated step may do there what a native one may.
func TestStepNetwork(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	port, abstract := hostServers(t)
	reach := fmt.Sprintf(`RUN perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); \
	print connect(S, pack_sockaddr_in(%s, inet_aton("127.0.0.1"))) ? "loopback answers\n" : "loopback is silent\n"; \
	socket(U, PF_UNIX, SOCK_STREAM, 0); print connect(U, pack_sockaddr_un("\0%s")) ? "abstract answers\n" : "abstract is silent\n"'
`, port, abstract)
	text := "FROM debian:bookworm-slim\n" + reach +
		`RUN perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0) && bind(S, pack_sockaddr_in(80, INADDR_ANY)) \
	&& listen(S, 1) or die $!; sleep 3'
RUN perl -MSocket -e 'socket(S, PF_INET, SOCK_RAW, 1) or die "raw socket: $!"'
RUN setpriv --reuid 1234 --regid 1234 --clear-groups perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 1) or die "ping: $!"; \
	socket(T, PF_INET, SOCK_STREAM, 0) && bind(T, pack_sockaddr_in(81, INADDR_ANY)) or die "port 81: $!"'
RUN test "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | paste -sd,)" = eth0,lo
RUN --network=none test "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | paste -sd,)" = lo
`
	_, log, err := g.try("build", "--platform", both, "--no-cache", dir(t, map[string]string{"Dockerfile": text}))
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(log, 40))
	}
	if strings.Count(log, " loopback is silent") != 2 || strings.Count(log, " abstract is silent") != 2 {
		t.Errorf("both platforms should find nothing of the host:\n%s", log)
	}

	host := dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\n" + strings.Replace(reach, "RUN", "RUN --network=host", 1)})
	g.fails([]string{"network.host"}, "build", host)
	_, log, err = g.try("build", "--allow", "network.host", "--platform", both, "--no-cache", host)
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(log, 40))
	}
	if strings.Count(log, " loopback answers") != 2 {
		t.Errorf("with the entitlement both platforms are on the host's network:\n%s", log)
	}

	l, err := net.Listen("tcp4", "0.0.0.0:0") // every address of the host
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, everywhere, _ := net.SplitHostPort(l.Addr().String())
	g.run("build", "--add-host", "gw:host-gateway",
		dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN bash -c ': >/dev/tcp/gw/" + everywhere + "'\n"}))

	cfg := filepath.Join(t.TempDir(), "gantry.toml")
	if err := os.WriteFile(cfg, []byte("[worker.oci]\nnetworkMode = \"host\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run("daemon", "stop")
	_, log, err = g.try("--config", cfg, "build", "--no-cache",
		dir(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\n" + reach}))
	if err != nil || strings.Count(log, " loopback answers") != 1 {
		t.Errorf("networkMode = host: %v\n%s", err, log)
	}
	g.run("daemon", "stop")
	if err := os.WriteFile(cfg, []byte("[worker.oci]\nnetworkMode = \"cni\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.fails([]string{"networkMode", "bridge"}, "--config", cfg, "build", host)
}

// With BuildKit's proxy a step of any platform reaches what the proxy gives it, and nothing else.
func TestProxyNetwork(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello through") })}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	address := ""
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			address = n.IP.String()
		}
	}
	need.That(t, address != "", "needs an address that is not loopback's")
	cfg := filepath.Join(t.TempDir(), "gantry.toml")
	if err := os.WriteFile(cfg, []byte("proxyNetwork = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.run("daemon", "stop")
	_, log, err := g.try("--config", cfg, "build", "--platform", both, "--no-cache",
		dir(t, map[string]string{"Dockerfile": fmt.Sprintf(`FROM debian:bookworm-slim
RUN bash -c 'p=${http_proxy#http://}; p=${p%%/}; exec 3<>/dev/tcp/${p%%:*}/${p##*:}; \
	printf "GET http://%[1]s:%[2]s/ HTTP/1.0\r\n\r\n" >&3; cat <&3'
RUN bash -c ': </dev/tcp/%[1]s/%[2]s' 2>/dev/null && exit 1 || echo "no other way"
`, address, port)}))
	if err != nil || strings.Count(log, " hello through") != 2 || strings.Count(log, " no other way") != 2 {
		t.Errorf("%v\n%s", err, tail(log, 40))
	}
}

// hostServers listen on the host's loopback and on an abstract socket.
func hostServers(t *testing.T) (port, abstract string) {
	t.Helper()
	abstract = "gantry-test-" + fmt.Sprint(os.Getpid())
	for _, address := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", "@" + abstract}} {
		l, err := net.Listen(address[0], address[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			port = fmt.Sprint(a.Port)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	}
	return port, abstract
}

// BenchmarkStepNetwork builds the same steps with a network of their own and on the host's, in turn, and
// reports what a step takes of each, in milliseconds.
func BenchmarkStepNetwork(b *testing.B) {
	const steps = 40
	context := probe(b)
	file := filepath.Join(b.TempDir(), "Dockerfile")
	text := "FROM scratch\nCOPY amd64 /probe\n" + strings.Repeat("RUN [\"/probe\", \"exit\", \"0\"]\n", steps)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	took := map[string][]time.Duration{}
	daemons := map[string]*gantry{}
	for _, mode := range []string{"bridge", "host"} {
		g := newGantry(b)
		cfg := filepath.Join(g.root, "gantry.toml")
		if err := os.WriteFile(cfg, []byte("[worker.oci]\nnetworkMode = \""+mode+"\"\n"), 0o600); err != nil {
			b.Fatal(err)
		}
		g.env = append(g.env, "GANTRY_CONFIG="+cfg)
		g.run("daemon", "stop")
		g.run("build", "-q", "-f", file, context) // the first makes the bridge
		daemons[mode] = g
	}
	for b.Loop() {
		for mode, g := range daemons {
			took[mode] = append(took[mode], timed(func() { g.run("build", "-q", "--no-cache", "-f", file, context) }))
		}
	}
	for mode, all := range took {
		b.ReportMetric(float64(median(all).Microseconds())/1000/steps, mode+"-ms/step")
	}
}
