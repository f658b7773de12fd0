package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/need"
)

// tap is an end of a network of the test's, for a virtual machine.
func tap(t *testing.T, lan string) *os.File {
	t.Helper()
	const name = "tap0"
	for _, args := range [][]string{
		{"tuntap", "add", name, "mode", "tap"}, {"link", "set", name, "master", "br0", "up"},
	} {
		if out, err := exec.Command("ip", append([]string{"-n", lan}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	opened := make(chan *os.File)
	go func() {
		defer close(opened)
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + lan)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		var fd int
		if err == nil {
			fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		}
		var req *unix.Ifreq
		if err == nil {
			req, err = unix.NewIfreq(name)
		}
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			t.Errorf("a tap in %s: %v", lan, err)
			return
		}
		opened <- os.NewFile(uintptr(fd), name)
	}()
	f := <-opened
	if f == nil {
		t.FailNow()
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// machineCluster is the whole way on two machines: alfred, which is this machine in a network of the test's, and rpi1, a virtual one for
// ARMv7, on which gantry is installed from its Debian package. By a registry over TLS, by one over plain HTTP, and without any.
func machineCluster(t *testing.T) {
	alfred := newHosts(t, 1)[0]
	alfred.restartAs("alfred", "")
	alfred.patience = 5 * time.Minute // an emulated machine is slow
	pi := newVM(t, "arm-6.1")
	pi.lan = tap(t, strings.TrimSuffix(alfred.netns, "-1")+"lan")
	pages, out := t.TempDir(), t.TempDir()
	bin := need.File(t, filepath.Join(filepath.Dir(program(t)), "gantry-arm"), "build GOARCH=arm")
	for _, args := range [][]string{
		{"go", "run", "../man", pages}, {"../../internal/packages/build.sh", bin, "armhf", "v0.0.0", pages, out},
	} {
		if text, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
	}
	pi.serve("gantry.deb", filepath.Join(out, "gantry_0.0.0_armhf.deb"))
	pi.on()
	const ip = "10.77.0.50"
	pi.run("hostname rpi1; ip addr add " + ip + "/24 dev eth1; " +
		"ip link set eth1 up; mkdir -p /var/lib/dpkg/info; touch /var/lib/dpkg/status")
	pi.get("/root", "gantry.deb")
	pi.run("dpkg -i --force-depends /root/gantry.deb && rm /root/gantry.deb && command -v gantry")
	pi.run("gantry daemon >/var/log-gantry 2>&1 & until gantry daemon status; do sleep 0.5; done")
	t.Cleanup(func() {
		if t.Failed() {
			log, _, _ := pi.try("tail -n 60 /var/log-gantry; gantry ps -a")
			t.Logf("on rpi1:\n%s\n%s\n%s", log, alfred.output("stack", "ps", "--no-trunc", "s"), alfred.output("node", "ls"))
		}
	})
	alfred.run("swarm", "init", "--advertise-addr", alfred.ip, "--default-addr-pool", "10.90.0.0/16") // QEMU has 10.0.2.0/24
	pi.run("gantry swarm join --advertise-addr " + ip + " --token " + alfred.run("swarm", "join-token", "-q", "worker") + " " + alfred.ip)
	eventually(t, "rpi1 is ready", func() error {
		nodes := alfred.run("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
		return unless(strings.Contains(nodes, "rpi1 Ready"), "%s", nodes)
	})
	idle := pi.run("sleep 10; for p in $(pidof gantry); do grep VmRSS /proc/$p/status; done | tr -dc '0-9\\n' | sort -n | tail -n 1")

	app := tellsMachine(t, "app")
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "WAY\tSECONDS")
	for _, way := range ways(t, alfred, app) {
		begin := time.Now()
		way.do()
		for _, at := range []string{alfred.ip, ip} {
			way.answer(at)
		}
		fmt.Fprintf(w, "%s\t%.0f\n", way.name, time.Since(begin).Seconds())
		alfred.run("stack", "rm", "s")
		within(t, alfred.patience, "nothing is left of the stack", func() error {
			left := pi.run("gantry ps -q") + alfred.run("ps", "-q")
			return unless(left == "", "%s", left)
		})
	}
	_ = w.Flush()
	t.Logf("idle worker: %s kB\n%s", idle, table.String())
	if kb, err := strconv.Atoi(idle); err != nil || kb > 60<<10 {
		t.Errorf("an idle worker takes %s kB, %v; want less than 60 MiB", idle, err)
	}
	nativeBuild(t, alfred)
	pi.run("gantry swarm leave && gantry daemon stop")
}

// way is one of bringing a service to two machines, alfred and rpi1.
type way struct {
	name   string
	do     func()
	answer func(ip string)
}

func ways(t *testing.T, alfred *host, app string) []way {
	deploy := func(text string, args ...string) {
		t.Helper()
		alfred.run(append(append([]string{"stack", "deploy", "-d", "-c", stackOf(t, app, text)}, args...), "s")...)
	}
	both := func(ip string) { alfred.machinesAt(ip, "8080", "app", "amd64", "arm") }
	return []way{
		{"A: a registry over TLS, one image", func() {
			registry := alfred.serves("5000", "--tls", "--open")
			alfred.run("build", "-q", "--platform", "linux/amd64,linux/arm/v7", "-t", registry+"/simple-rest-app", "--push", app)
			alfred.run("rmi", "-f", registry+"/simple-rest-app")
			deploy("services: {app: {image: " + registry + "/simple-rest-app, ports: ['8080:8080'], deploy: {replicas: 2}}}\n")
		}, both},
		{"B: a registry over plain HTTP, an image for each", func() {
			registry := alfred.serves("5001", "--open")
			for tag, platform := range map[string]string{"pc": "linux/amd64", "pi": "linux/arm/v7"} {
				alfred.run("build", "-q", "--platform", platform, "--registry-http", registry, "-t", registry+"/app:"+tag, "--push", app)
			}
			deploy("services:\n  pc: {image: " + registry + "/app:pc, ports: ['8080:8080'], deploy: {placement: {constraints: " +
				"[node.hostname==alfred]}}}\n  pi: {image: " + registry + "/app:pi, ports: ['8081:8080'], deploy: {placement: " +
				"{constraints: [node.hostname==rpi1]}}}\n")
		}, func(ip string) {
			alfred.machinesAt(ip, "8080", "app", "amd64")
			alfred.machinesAt(ip, "8081", "app", "arm")
		}},
		{"C: --build, no registry", func() {
			deploy("services: {app: {build: ., ports: ['8080:8080'], deploy: {replicas: 2}}}\n", "--build")
		}, both},
	}
}

// nativeBuild has a step for ARMv7 run where it is native.
func nativeBuild(t *testing.T, alfred *host) {
	t.Helper()
	for _, arch := range []string{"amd64", "arm"} {
		alfred.run("import", "--platform", "linux/"+arch, need.File(t, "../../.cache/vm/busybox-"+arch+".tar", "vms"), "busybox")
	}
	d := dir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN uname -m; uname -n\n"})
	begin := time.Now()
	_, said, err := alfred.try("build", "--progress=plain", "--no-cache", "--platform", both, "-t", "native", d)
	if err != nil || !strings.Contains(said, "on node rpi1") || !strings.Contains(said, "armv7l") || strings.Contains(said, "emulated") {
		t.Errorf("a build on both machines: %v\n%s", err, said)
	}
	t.Logf("a native build on both: %.0f s", time.Since(begin).Seconds())
}
