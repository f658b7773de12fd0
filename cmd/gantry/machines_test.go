package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// machineDockerfile builds in a foreign platform's shell, keeps a program that is setuid, and serves.
const machineDockerfile = `FROM busybox AS build
RUN echo "built on $(uname -m)" >/built && for i in 1 2 3; do sh -c true; done
FROM busybox
ARG TARGETARCH
COPY --from=build /built /built
COPY ${TARGETARCH} /probe
RUN cp /probe /setuid && chmod 4755 /setuid
CMD ["/probe", "serve", ":8080", "machine"]
`

// machine is a virtual machine with gantry in it, and nothing else but busybox.
type machine struct {
	*vm
	name  string
	begin time.Time
	took  time.Duration
	way   string // how the foreign platform runs
	idle  string // memory of a daemon with nothing to do
	says  []string
}

// newMachine starts a machine and fetches gantry and what it works on.
func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	m := &machine{vm: newVM(t, name), name: name, begin: time.Now()}
	bin := program(t)
	if m.arch != runtime.GOARCH {
		bin = need.File(t, filepath.Join(filepath.Dir(bin), "gantry-"+m.arch), "build GOARCH="+m.arch)
	}
	m.serve("gantry", bin)
	m.serve("Dockerfile", filepath.Join(dir(t, map[string]string{"Dockerfile": machineDockerfile}), "Dockerfile"))
	for _, arch := range []string{"amd64", "arm"} {
		m.serve(arch, filepath.Join(probe(t), arch))
		m.serve("busybox-"+arch, need.File(t, "../../.cache/vm/busybox-"+arch+".tar", "vms"))
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _, _ := m.try("tail -n 40 /var/lib/gantry/daemon.log; tail -n 9 /var/log-boot; ps | grep -v '\\['; grep -E " +
				"'Running|Emulated' /var/lib/gantry/containers/*/container.json")
			t.Logf("in the machine:\n%s", log)
		}
	})
	m.on()
	m.get("/usr/bin", "gantry")
	m.get("/ctx", "Dockerfile", "amd64", "arm")
	m.get("/images", "busybox-amd64", "busybox-arm")
	return m
}

// images makes the base image of two platforms.
func (m *machine) images() {
	m.t.Helper()
	m.run("gantry import --platform linux/amd64 /images/busybox-amd64 busybox && gantry import --platform linux/arm/v7 " +
		"/images/busybox-arm busybox")
}

// table is the machine's own binfmt_misc, as text; the test sees it in a place of its own.
func (m *machine) table() string {
	m.t.Helper()
	return m.run("mkdir -p /binfmt && { ls /binfmt/status >/dev/null 2>&1 || mount -t binfmt_misc binfmt_misc /binfmt; } && cd /binfmt " +
		"&& for f in $(ls | grep -v register); do echo $f; cat $f; done")
}

// foreignEntry registers what another tool might have: an interpreter for files that begin with a word.
const foreignEntry = `echo ':another:M::Another:\xff\xff\xff\xff\xff\xff\xff:/bin/busybox:F' >/binfmt/register`

// platforms are the machine's own and the foreign one.
func (m *machine) platforms() (own, foreign string) {
	if m.arch == "arm" {
		return "linux/arm/v7", "linux/amd64"
	}
	return "linux/amd64", "linux/arm/v7"
}

// TestMachines boots kernels that people have: with GANTRY_VM=all, as `make e2e-vm` does, all of them, and
// otherwise the one that most people with an older kernel have.
func TestMachines(t *testing.T) {
	names := []string{"amd64-6.1"}
	if os.Getenv("GANTRY_VM") == "all" {
		names = []string{"amd64-5.10", "amd64-6.1", "amd64-6.12", "arm-6.1"}
		t.Run("kills", machineKills)
		t.Run("refusals", machineRefusals)
		t.Run("demo", machineDemo)
		t.Run("cluster", machineCluster)
	}
	var done []*machine
	for _, name := range names {
		t.Run(name, func(t *testing.T) { done = append(done, mainJob(t, name)) })
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tKERNEL\tEMULATION\tSECONDS\tIDLE DAEMON\tANSWERS")
	for _, m := range done {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.0f\t%s\t%s\n", m.name, m.release, m.way, m.took.Seconds(), m.idle, strings.Join(m.says, ", "))
	}
	_ = w.Flush()
	t.Logf("\n%s", b.String())
}

// mainJob is what gantry is for: built, pushed, pulled and run for two platforms, across a restart of the
// machine, which is afterwards as it was.
func mainJob(t *testing.T, name string) *machine {
	m := newMachine(t, name)
	before := m.table()
	m.run(foreignEntry)
	with := m.table()
	own, foreign := m.platforms()
	m.images()
	m.run("gantry daemon stop; gantry ps")
	m.idle = strings.Join(strings.Fields(m.run("grep VmRSS /proc/$(pidof gantry | cut -d ' ' -f 1)/status"))[1:], " ")
	ref := "10.0.2.2" + strings.TrimPrefix(newGantry(t).registry(false), "localhost") + "/machine"

	shared := !strings.HasSuffix(name, "6.12")
	m.way = "private"
	m.expect("gantry doctor", 0, "ok  kernel           Linux "+m.release, "v2 with cpu, memory, pids")
	list := m.expect("gantry emulators ls", 0, own, foreign)
	if shared {
		m.way = "for the whole machine"
		m.expectIn(list, "for the whole machine, while gantry needs it (gantry-")
	}
	if now := m.table(); now != with {
		t.Errorf("looking has changed the table to\n%s", now)
	}
	log := m.expect("gantry build --progress plain --registry-http "+ref[:strings.Index(ref, "/")]+" --platform linux/amd64,linux/arm/v7 "+
		"-t "+ref+" --push /ctx", 0, "emulated "+foreign+", qemu-")
	if said := strings.Contains(log, "registered for the whole machine while gantry needs it"); said != shared {
		t.Errorf("the build says that the emulator is for the whole machine: %v\n%s", said, log)
	}
	m.run("gantry rmi -f " + ref)
	for _, p := range []string{own, foreign} {
		m.run("gantry pull -q --platform " + p + " " + ref)
		arch := strings.Split(p, "/")[1]
		m.run("gantry run -d --restart always --name web --platform " + p + " -p 8080:8080 " + ref)
		m.says = append(m.says, m.answers("machine "+arch))
		m.expect("gantry exec web cat /built", 0, "built on ")
		m.limits(p, ref)
		m.run("gantry daemon stop") // containers go on, and so does what starts their programs
		if table := m.table(); strings.Contains(table, "gantry-") != (shared && p == foreign) {
			t.Fatalf("%s runs without a daemon, and the table is\n%s", p, table)
		}
		m.answers("machine " + arch)
		m.run("printf '#!/bin/sh\nexec gantry daemon\n' >/etc/boot; chmod 755 /etc/boot")
		m.restart()
		m.answers("machine " + arch)
		m.run("gantry rm -f web; gantry daemon stop; rm /etc/boot")
	}
	if now := m.table(); now != before {
		t.Errorf("the table was\n%s\nand is\n%s", before, now) // the restart has taken the foreign entry
	}
	if left := m.run("ls -d /run/gantry* /sys/class/net/gantry* 2>/dev/null; grep gantry /proc/mounts; true"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	m.took = time.Since(m.begin)
	return m
}

func (m *machine) expectIn(out, word string) {
	m.t.Helper()
	if !strings.Contains(out, word) {
		m.t.Errorf("%q is not in\n%s", word, out)
	}
}

// answers waits for the published port, and wants a text of it.
func (m *machine) answers(want string) (got string) {
	m.t.Helper()
	eventually(m.t, "the published port of "+m.name, func() error {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + m.web + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if got = strings.TrimSpace(string(text)); err == nil && got != want {
			err = fmt.Errorf("%q, want %q", got, want)
		}
		return err
	})
	return got
}

// limits are those of cgroup v2, the end of a container that wants too much, and setuid.
func (m *machine) limits(platform, ref string) {
	m.t.Helper()
	run := "gantry run --rm --platform " + platform + " "
	m.expect(run+"--memory 64m --cpus 0.5 --pids-limit 20 "+ref+" sh -c 'cd /sys/fs/cgroup && /bin/cat memory.max cpu.max pids.max'", 0,
		"67108864", "50000 100000", "20")
	m.expect(run+"--user 1000 "+ref+" /setuid uid", 0, "0")
	m.expect("gantry run --name big --platform "+platform+" --memory 32m --memory-swap 32m "+ref+" tail /dev/zero", 137)
	m.expect("gantry inspect -f '{{.State.OOMKilled}}' big && gantry rm big", 0, "true")
}

// machineKills: a daemon that is killed at any moment leaves nothing that the next one does not take away, and never
// another tool's entry.
func machineKills(t *testing.T) {
	m := newMachine(t, "amd64-6.1")
	m.table()
	m.run(foreignEntry)
	before := m.table()
	m.images()
	for i := range 10 {
		m.run("gantry daemon >/dev/null 2>&1 & echo $! >/pid")
		work := fmt.Sprintf("gantry build -q --no-cache --platform linux/amd64,linux/arm/v7 -t kills /ctx; gantry run -d --platform "+
			"linux/arm/v7 busybox sleep %d", i)
		m.run("(" + work + ") >/dev/null 2>&1 &")
		moment := time.Duration(rand.IntN(8000)) * time.Millisecond // a kill has no right time
		t.Logf("kill %d after %v", i, moment)
		time.Sleep(moment)
		m.run("kill -9 $(cat /pid); sleep 0.2; pkill gantry; true")
	}
	during := m.table()
	m.run("gantry ps -q; gantry rm -f $(gantry ps -aq) >/dev/null 2>&1; gantry daemon stop")
	if after := m.table(); after != before {
		t.Errorf("the table was\n%s\nand is\n%s", before, after)
	}
	t.Logf("after the kills the table was\n%s", during)
}

// demoDockerfile is the sample's (testdata/simple-rest-app) without its packages: their installation takes more
// than a quarter of an hour where an emulator runs under an emulator.
const demoDockerfile = `FROM debian:bookworm-slim AS build
RUN uname -m >/machine
FROM debian:bookworm-slim
RUN useradd --system --no-create-home --uid 10001 app
COPY --from=build /machine /machine
ARG TARGETARCH
COPY ${TARGETARCH} /probe
USER app
EXPOSE 8080
STOPSIGNAL SIGTERM
CMD ["/probe", "serve", ":8080", "demo"]
`

// machineDemo is the way of `make demo`, on Debian's images and with a registry of gantry's own over TLS.
func machineDemo(t *testing.T) {
	m := newMachine(t, "amd64-6.1")
	for _, arch := range []string{"amd64", "arm"} {
		m.serve("base-"+arch, need.File(t, "../../.cache/base/bookworm-slim-"+arch+".tar", "bases"))
	}
	m.serve("Dockerfile", filepath.Join(dir(t, map[string]string{"Dockerfile": demoDockerfile}), "Dockerfile"))
	m.get("/images", "base-amd64", "base-arm")
	m.get("/sample", "Dockerfile", "amd64", "arm")
	m.run("gantry import --platform linux/amd64 /images/base-amd64 debian:bookworm-slim && gantry import --platform linux/arm/v7 " +
		"/images/base-arm debian:bookworm-slim && rm -r /images")
	m.run("gantry registry serve --tls --addr 127.0.0.1:5443 >/dev/null 2>&1 & until grep -q ':1543 ' /proc/net/tcp; do sleep 0.2; done")
	const ref = "localhost:5443/simple-rest-app:demo"
	begin := time.Now()
	m.run("gantry build -q --platform linux/amd64,linux/arm/v7 -t " + ref + " --push /sample")
	t.Logf("built and pushed in %.0f s", time.Since(begin).Seconds())
	m.run("gantry rmi -f " + ref)
	for platform, machine := range map[string]string{"linux/amd64": "x86_64", "linux/arm/v7": "armv7l"} {
		m.run("gantry pull -q --platform " + platform + " " + ref + " && gantry run -d --name demo --platform " + platform +
			" -p 8080:8080 " + ref)
		m.says = append(m.says, m.answers("demo "+strings.Split(platform, "/")[1]))
		m.expect("gantry exec demo cat /machine", 0, machine)
		m.run("gantry rm -f demo")
	}
	t.Log(m.says)
	m.run("gantry daemon stop")
}

// machineRefusals: what a machine may lack, or have in the way, is said with the way out.
func machineRefusals(t *testing.T) {
	m := newMachine(t, "amd64-6.1")
	m.images()
	const run = "gantry run --rm --platform linux/arm/v7 busybox uname -m"
	m.run("gantry daemon stop; rmmod binfmt_misc; mv /lib/modules/*/kernel/fs/binfmt_misc.ko /")
	m.expect(run, 125, "kernel 6.1", "has no binfmt_misc", "install the kernel's modules")
	m.expect("gantry run --rm busybox uname -m", 0, "x86_64")
	m.expect("gantry emulators exec -- true", 1, "has no binfmt_misc")
	m.run("mv /binfmt_misc.ko /lib/modules/*/kernel/fs/; gantry daemon stop")

	m.table()
	emulator := m.run("ls /var/lib/gantry/bin/qemu-arm-*/qemu-arm")
	arm := `:other:M::` + armELF + `:`
	for _, c := range []struct {
		entry string
		code  int
		words []string
	}{
		{"/bin/false:F", 125, []string{"the host's entry other starts /bin/false", "echo -1 >/proc/sys/fs/binfmt_misc/other"}},
		{emulator + ":", 125, []string{"the host's entry other lacks flag F", "echo -1 >/proc/sys/fs/binfmt_misc/other"}},
		{emulator + ":F", 0, []string{"armv7l"}},
	} {
		m.run("printf '%s' '" + arm + c.entry + "' >/binfmt/register")
		before := m.table()
		m.expect(run, c.code, c.words...)
		m.run("gantry daemon stop")
		if after := m.table(); after != before {
			t.Errorf("%s: the table was\n%s\nand is\n%s", c.entry, before, after)
		}
		m.run("echo -1 >/binfmt/other")
	}
	for policy, word := range map[string]string{"private": "emulation = \"auto\"", "off": "emulation is off"} {
		m.run("gantry daemon --emulation " + policy + " >/dev/null 2>&1 &")
		m.expect("until gantry daemon status; do sleep 0.1; done >/dev/null; "+run, 125, word)
		m.run("gantry daemon stop")
	}
	// The daemon's own mount of the table is not the one below /proc; the network's settings are there.
	m.run("mount -t binfmt_misc b /proc/sys/fs/binfmt_misc && mount -o remount,bind,ro /proc/sys/fs/binfmt_misc && mount --bind " +
		"/proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys")
	m.expect("gantry run --rm --network host --platform linux/arm/v7 busybox uname -m", 0, "armv7l")
	m.expect(run, 125, "read-only file system; set it to 1 on the host if /proc/sys is read-only")
}
