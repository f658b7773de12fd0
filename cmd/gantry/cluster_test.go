package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// seat is a machine's place in a network of a test's: a network namespace with an address.
type seat struct{ name, ip, netns string }

// enter is before a command that is to run on the machine.
func (s seat) enter() []string {
	return []string{"nsenter", "--net=/run/netns/" + s.netns, "unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, s.name}
}

// host is a machine of a test's with a daemon of its own.
type host struct {
	*gantry
	seat
	daemon *exec.Cmd
	log    string

	patience time.Duration // with other hosts; a minute when zero
}

// lans counts the networks of hosts.
var lans atomic.Int32

// newSeats makes places in one network.
func newSeats(t testing.TB, n int) (all []seat) {
	t.Helper()
	mark := fmt.Sprintf("gc%04x%d", os.Getpid()&0xffff, lans.Add(1))
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	lan := mark + "lan"
	ip("netns", "add", lan)
	t.Cleanup(func() { ip("netns", "del", lan) })
	ip("-n", lan, "link", "add", "br0", "type", "bridge")
	ip("-n", lan, "link", "set", "br0", "up")
	for i := range n {
		s := seat{name: fmt.Sprintf("host%d", i+1), ip: fmt.Sprintf("10.77.0.%d", i+1), netns: fmt.Sprintf("%s-%d", mark, i+1)}
		ip("netns", "add", s.netns)
		t.Cleanup(func() { ip("netns", "del", s.netns) })
		ip("-n", s.netns, "link", "set", "lo", "up")
		ip("link", "add", "eth0", "netns", s.netns, "type", "veth", "peer", "name", fmt.Sprint("p", i+1), "netns", lan)
		ip("-n", lan, "link", "set", fmt.Sprint("p", i+1), "master", "br0", "up")
		ip("-n", s.netns, "addr", "add", s.ip+"/24", "dev", "eth0")
		ip("-n", s.netns, "link", "set", "eth0", "up")
		all = append(all, s)
	}
	return all
}

// newHosts makes machines that reach each other, and their daemons. Tests that have their own run beside each other: they wait
// more than they work.
func newHosts(t testing.TB, n int) (all []*host) {
	t.Helper()
	if test, ok := t.(*testing.T); ok {
		test.Parallel()
	}
	for _, s := range newSeats(t, n) {
		h := &host{gantry: newGantry(t), seat: s}
		t.Cleanup(func() { h.output("swarm", "leave", "--force") }) // else the cluster makes containers anew that the end removes
		h.within = s.enter()
		h.env = append(h.env, "DOCKER_CONFIG="+t.TempDir()) // logins are a machine's own
		h.log = filepath.Join(h.root, "daemon.log")
		h.start()
		all = append(all, h)
	}
	return all
}

// start starts the host's daemon.
func (h *host) start() {
	h.t.Helper()
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	all := slices.Concat(h.within, []string{h.bin, "--debug", "daemon"})
	h.daemon = exec.Command(all[0], all[1:]...)
	h.daemon.Env = append(os.Environ(), h.env...)
	h.daemon.Stdout, h.daemon.Stderr = log, log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = h.daemon.Wait() }()
	eventually(h.t, h.name+" answers", func() error {
		_, _, err := h.try("daemon", "status")
		return err
	})
}

// kill ends the host's daemon as a crash does.
func (h *host) kill() {
	h.t.Helper()
	if err := h.daemon.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, h.name+" is dead", func() error {
		return unless(exec.Command("kill", "-0", fmt.Sprint(h.daemon.Process.Pid)).Run() != nil, "it lives")
	})
}

// cut takes a host's link away, or gives it back.
func (h *host) cut(away bool) {
	h.t.Helper()
	state := map[bool]string{true: "down", false: "up"}[away]
	if out, err := exec.Command("ip", "-n", h.netns, "link", "set", "eth0", state).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

// newCluster is a cluster of some managers, and workers beside them, each with the probe.
func newCluster(t testing.TB, managers, workers int) []*host {
	t.Helper()
	all := newHosts(t, managers+workers)
	first := all[0]
	first.run("swarm", "init", "--advertise-addr", first.ip, "--listen-addr", first.ip)
	image := filepath.Join(t.TempDir(), "probe.tar")
	for i, h := range all {
		if i == 0 {
			h.run("build", "-q", "-t", "probe", "--platform", both, probe(t))
			h.run("save", "-o", image, "probe")
			continue
		}
		h.run("load", "-q", "-i", image)
		role := "worker"
		if i < managers {
			role = "manager"
		}
		h.run("swarm", "join", "--token", first.run("swarm", "join-token", "-q", role), first.ip)
	}
	eventually(t, "all nodes are ready", func() error {
		out := first.run("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
		return unless(strings.Count(out, "Ready") == len(all), "%s", out)
	})
	return all
}

// task is one of a service, as docker service ps shows it.
type task struct{ ID, Name, Node, DesiredState, CurrentState, Error string }

func (h *host) tasks(service string) (all []task) {
	h.t.Helper()
	for line := range strings.Lines(h.run("service", "ps", "--no-trunc", "--format", "json", service)) {
		var t task
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			h.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, t)
	}
	return all
}

// running are the nodes of a service's tasks that run, in order.
func (h *host) running(service string) (nodes []string) {
	for _, t := range h.tasks(service) {
		if t.DesiredState == "Running" && strings.HasPrefix(t.CurrentState, "Running") {
			nodes = append(nodes, t.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// untilRuns waits until so many tasks of a service run, and returns their nodes.
func (h *host) untilRuns(service string, n int) (nodes []string) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%d tasks of %s", n, service), func() error {
		nodes = h.running(service)
		return unless(len(nodes) == n, "%+v", h.tasks(service))
	})
	return nodes
}

func (h *host) service(args ...string) {
	h.t.Helper()
	h.run(append([]string{"service", "create", "-d", "-q", "--no-resolve-image"}, args...)...)
}

// Services run where there is room, are updated and rolled back, move away from drained nodes, and end.
func TestClusterServices(t *testing.T) {
	hosts := newCluster(t, 1, 2)
	m := hosts[0]
	m.service("--name", "web", "--replicas", "6", "--env", "WHO=first", "probe", "serve", ":8080", "{{.Node.Hostname}} {{.Task.Slot}}")
	if nodes := m.untilRuns("web", 6); !slices.Equal(nodes, []string{"host1", "host1", "host2", "host2", "host3", "host3"}) {
		t.Errorf("they run on %v", nodes)
	}
	eventually(t, "the log of all tasks", func() error {
		out := m.run("service", "logs", "--raw", "web")
		return unless(strings.Count(out, "serving") == 6, "%s", out)
	})

	m.run("service", "scale", "-d", "web=3")
	m.untilRuns("web", 3)

	m.run("service", "update", "-d", "-q", "--env-add", "WHO=second", "--update-parallelism", "1", "web")
	eventually(t, "the update", func() error {
		out := m.run("service", "inspect", "-f", "{{.UpdateStatus.State}}", "web")
		return unless(out == "completed", "%s", out)
	})
	m.untilRuns("web", 3)

	m.run("node", "update", "--availability", "drain", "host2")
	eventually(t, "the drain", func() error {
		nodes := m.running("web")
		return unless(len(nodes) == 3 && !slices.Contains(nodes, "host2"), "%v", nodes)
	})
	m.run("node", "update", "--availability", "active", "host2")

	m.service("--name", "everywhere", "--mode", "global", "probe", "sleep")
	if nodes := m.untilRuns("everywhere", 3); len(slices.Compact(nodes)) != 3 {
		t.Errorf("the global service runs on %v", nodes)
	}
	m.service("--name", "job", "--mode", "replicated-job", "--replicas", "2", "probe", "exit", "0")
	eventually(t, "the job", func() error {
		out := m.run("service", "ls", "--filter", "name=job", "--format", "{{.Replicas}}")
		return unless(strings.Contains(out, "2/2 completed"), "%s", out)
	})
	m.run("service", "rm", "web", "everywhere", "job")
	told := m.run("events", "--since", "10m", "--until", "0s", "--filter", "scope=swarm", "--format",
		"{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
	for _, want := range []string{"service create web", "service update web", "service remove web", "node update host2"} {
		if !strings.Contains(told, want) {
			t.Errorf("%s is no event:\n%s", want, told)
		}
	}
	eventually(t, "nothing of them", func() error {
		for _, h := range hosts {
			if out := h.run("ps", "-aq", "--filter", "label=com.docker.swarm.task"); out != "" {
				return fmt.Errorf("%s has %s", h.name, out)
			}
		}
		return nil
	})
}

// An update that does not become healthy goes back by itself; the tasks that ran go on.
func TestClusterRollsBack(t *testing.T) {
	m := newCluster(t, 1, 0)[0]
	m.base("linux/amd64")
	m.service("--name", "web", "--replicas", "2", "--health-cmd", "true", "--health-interval", "200ms", "--health-retries", "1",
		"--update-failure-action", "rollback", "--update-monitor", "2s", "--update-order", "start-first", "--stop-grace-period", "1s",
		"debian:bookworm-slim", "sleep", "1000")
	m.untilRuns("web", 2)
	before := m.run("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web")
	m.run("service", "update", "-d", "-q", "--health-cmd", "false", "web")
	eventually(t, "the way back", func() error {
		out := m.run("service", "inspect", "-f", "{{.UpdateStatus.State}}", "web")
		return unless(out == "rollback_completed", "%s", out)
	})
	m.untilRuns("web", 2)
	if after := m.run("ps", "-q", "--filter", "label=com.docker.swarm.service.name=web"); len(strings.Fields(after)) != 2 {
		t.Errorf("before %s, after %s", before, after)
	}
}

// Secrets and configs are in their containers as the service wants them, and on no disk of a node.
func TestClusterSecrets(t *testing.T) {
	hosts := newCluster(t, 1, 1)
	m := hosts[0]
	word := fmt.Sprintf("word-%d-unheard-of", time.Now().UnixNano())
	file := filepath.Join(t.TempDir(), "word")
	if err := os.WriteFile(file, []byte(word), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run("secret", "create", "word", file)
	m.run("config", "create", "page", file)
	m.service("--name", "reader", "--replicas", "2", "--secret", "source=word,target=deep/word,uid=10,gid=20,mode=0440",
		"--config", "source=page,target=/etc/page", "probe", "files", ":80", "/")
	m.untilRuns("reader", 2)
	for _, h := range hosts {
		id := h.run("ps", "-q", "--filter", "label=com.docker.swarm.service.name=reader")
		for path, want := range map[string]string{"/run/secrets/deep/word": "10 20 440", "/etc/page": "0 0 444"} {
			got := h.run("exec", id, "/probe", "show", path)
			if got != want+" "+word {
				t.Errorf("%s has at %s %q, want %q", h.name, path, got, want)
			}
		}
		// What Raft keeps of it is encrypted; all else is in memory.
		out, err := exec.Command("grep", "-rla", "--devices=skip", word, h.root).CombinedOutput()
		if err == nil {
			t.Errorf("the secret is on the disk of %s:\n%s", h.name, out)
		}
	}
	m.run("service", "rm", "reader")
	m.run("secret", "rm", "word")
	m.run("config", "rm", "page")
}
