package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// containers are how many of a service there are on all hosts that answer, whoever knows of them.
func containers(hosts []*host, service string) (n int) {
	for _, h := range hosts {
		n += len(strings.Fields(h.output("ps", "-q", "--filter", "label=com.docker.swarm.service.name="+service)))
	}
	return n
}

// The leader is killed under a stream of updates: the next manager takes over within ten seconds, nothing that was
// acknowledged is lost, and in the end each task runs once.
func TestClusterLosesItsLeader(t *testing.T) {
	hosts := newCluster(t, 3, 0)
	m := hosts[1]
	m.service("--name", "web", "--replicas", "6", "probe", "sleep")
	m.untilRuns("web", 6)
	if out := m.run("node", "ls", "--filter", "name=host1", "--format", "{{.ManagerStatus}}"); out != "Leader" {
		t.Fatalf("host1 is %s", out)
	}
	var mu sync.Mutex
	var acknowledged int
	var at time.Time
	done := make(chan struct{})
	var stream sync.WaitGroup
	stream.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if _, _, err := m.try("service", "update", "-d", "-q", "--label-add", fmt.Sprintf("n=%d", i), "web"); err == nil {
				mu.Lock()
				acknowledged, at = i, time.Now()
				mu.Unlock()
			}
		}
	})
	time.Sleep(2 * time.Second)
	killed := time.Now()
	hosts[0].kill()
	time.Sleep(time.Second) // what was under way is through
	after := time.Now()
	eventually(t, "an update after the leader's end", func() error {
		mu.Lock()
		defer mu.Unlock()
		return unless(at.After(after), "the last was %s after it", at.Sub(killed))
	})
	mu.Lock()
	t.Logf("the first update was acknowledged %.1f s after the leader's end", at.Sub(killed).Seconds())
	if at.Sub(killed) > 10*time.Second {
		t.Errorf("that is more than 10 s")
	}
	mu.Unlock()
	close(done)
	stream.Wait()
	label, err := strconv.Atoi(m.run("service", "inspect", "-f", "{{.Spec.Labels.n}}", "web"))
	if err != nil || label < acknowledged {
		t.Errorf("update %d was acknowledged, and %d is there (%v)", acknowledged, label, err)
	}
	hosts[0].start()
	eventually(t, "each task runs once", func() error {
		nodes, n := m.running("web"), containers(hosts, "web")
		return unless(len(nodes) == 6 && n == 6, "%d tasks on %v, %d containers", len(nodes), nodes, n)
	})
}

// A worker that is cut off loses its tasks to the others, and runs none of them twice once it is back.
func TestClusterLosesAWorker(t *testing.T) {
	hosts := newCluster(t, 1, 2)
	m := hosts[0]
	m.service("--name", "web", "--replicas", "6", "probe", "sleep")
	m.untilRuns("web", 6)
	hosts[2].cut(true)
	eventually(t, "the tasks have moved", func() error {
		nodes := m.running("web")
		return unless(len(nodes) == 6 && !slices.Contains(nodes, "host3"), "%v", nodes)
	})
	hosts[2].cut(false)
	eventually(t, "nothing runs twice", func() error {
		n, ready := containers(hosts, "web"), m.run("node", "ls", "--filter", "name=host3", "--format", "{{.Status}}")
		return unless(n == 6 && ready == "Ready", "%d containers, host3 is %s", n, ready)
	})
}

// A daemon's end leaves the tasks' containers running, and the next one takes them up: they are the same. It may come up before
// the machine's address does.
func TestClusterSurvivesItsDaemon(t *testing.T) {
	m := newCluster(t, 1, 0)[0]
	m.service("--name", "web", "--replicas", "3", "probe", "sleep")
	m.untilRuns("web", 3)
	list := func() []string {
		ids := strings.Fields(m.run("ps", "-q", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=web"))
		slices.Sort(ids)
		return ids
	}
	before := list()
	m.kill()
	address := func(verb string) {
		t.Helper()
		if out, err := exec.Command("ip", "-n", m.netns, "addr", verb, m.ip+"/24", "dev", "eth0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	address("del")
	m.start()
	eventually(t, "its address is missed", func() error {
		out := m.run("info", "-f", "{{.Swarm.Error}}")
		return unless(strings.Contains(out, "cannot assign requested address"), "%s", out)
	})
	address("add")
	eventually(t, "the node is ready", func() error {
		out := m.output("node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}")
		return unless(out == "Ready Leader", "%s", out)
	})
	time.Sleep(3 * time.Second)
	if after := list(); !slices.Equal(before, after) {
		t.Errorf("the containers were %v, and are %v", before, after)
	}
	m.untilRuns("web", 3)
	m.run("service", "scale", "-d", "web=1")
	eventually(t, "it still obeys", func() error { return unless(len(list()) == 1, "%v", list()) })
}

// One image name for two architectures: each node runs its own, and one that fits nowhere says so, until emulators are
// allowed.
func TestClusterOfTwoArchitectures(t *testing.T) {
	pc, pi := pcAndPi(t)
	dir := t.TempDir()
	for name, platforms := range map[string]string{"two": both, "one": "linux/amd64", "other": "linux/arm64"} {
		archive := filepath.Join(dir, name)
		pc.run("build", "-q", "-t", name, "--platform", platforms, probe(t))
		pc.run("save", "-o", archive, name)
		pi.run("load", "-q", "-i", archive)
	}
	pc.service("--name", "two", "--mode", "global", "two", "serve", ":80", "I am")
	if nodes := pc.untilRuns("two", 2); !slices.Equal(nodes, []string{"host1", "host2"}) {
		t.Errorf("the image for both runs on %v", nodes)
	}
	for h, want := range map[*host]string{pc: "amd64", pi: "arm"} {
		id := h.run("ps", "-q", "--filter", "label=com.docker.swarm.service.name=two")
		if out := h.run("exec", id, "/probe", "arch"); out != want {
			t.Errorf("%s runs %s", h.name, out)
		}
	}
	pc.service("--name", "one", "--replicas", "2", "one", "sleep")
	if nodes := pc.untilRuns("one", 2); !slices.Equal(nodes, []string{"host1", "host1"}) {
		t.Errorf("the image for amd64 runs on %v", nodes)
	}

	out, stderr, err := pc.try("service", "create", "-d", "--no-resolve-image", "--name", "other", "other", "sleep")
	const why = "host1: linux/amd64; host2: linux/arm/v7; the image has linux/arm64; build it with gantry build --platform " +
		"linux/arm64,linux/amd64,linux/arm/v7"
	if err != nil || !strings.Contains(stderr, why) {
		t.Errorf("%v: the warning is %s%s; want %s", err, out, stderr, why)
	}
	eventually(t, "the reason in service ps", func() error {
		tasks := pc.tasks("other")
		return unless(len(tasks) == 1 && strings.Contains(tasks[0].Error, why), "%+v", tasks)
	})
	pc.run("service", "update", "-d", "-q", "--emulate", "other")
	pc.untilRuns("other", 1)
}

// What is wrong with a join is said, and leaves the node as it was.
func TestClusterBadInput(t *testing.T) {
	hosts := newHosts(t, 3)
	a, b, c := hosts[0], hosts[1], hosts[2]
	c.run("swarm", "init", "--advertise-addr", c.ip)
	foreign := c.run("swarm", "join-token", "-q", "worker")
	a.fails([]string{"not a swarm manager"}, "node", "ls")
	a.fails([]string{"10.99.0.9"}, "swarm", "init", "--advertise-addr", "10.99.0.9", "--listen-addr", "10.99.0.9:2377")
	a.fails([]string{"nosuch0", "network interface"}, "swarm", "init", "--advertise-addr", "nosuch0")
	a.run("swarm", "init") // it has one address
	token := a.run("swarm", "join-token", "-q", "worker")
	a.run("swarm", "join-token", "-q", "--rotate", "worker")
	for what, args := range map[string][]string{
		"remote CA does not match": {foreign, a.ip}, "token": {"SWMTKN-1-nonsense", a.ip}, "valid join token": {token, a.ip},
		"connection refused": {token, b.ip},
	} {
		b.fails([]string{what}, "swarm", "join", "--token", args[0], args[1])
		if out := b.run("info", "-f", "{{.Swarm.LocalNodeState}}"); out != "inactive" {
			t.Errorf("after %s the node is %s", what, out)
		}
	}
	b.run("swarm", "join", "--token", a.run("swarm", "join-token", "-q", "worker"), a.ip)
	b.fails([]string{"already part of a swarm"}, "swarm", "join", "--token", token, a.ip)
	b.fails([]string{"Worker nodes can't be used"}, "service", "ls")
	a.fails([]string{"last manager", "--force"}, "swarm", "leave")
	a.fails([]string{"no-such-image"}, "service", "inspect", "no-such-image")
	a.fails([]string{"constraint"}, "service", "create", "-d", "--constraint", "nonsense", "probe")
	b.run("swarm", "leave")
	a.run("swarm", "leave", "--force")
	if _, err := os.Stat(filepath.Join(a.root, "cluster", "node")); err == nil {
		t.Error("leave has left the cluster's state")
	}
}

// A locked cluster wants its key after a restart.
func TestClusterLocks(t *testing.T) {
	m := newHosts(t, 1)[0]
	m.run("swarm", "init", "--autolock", "--advertise-addr", m.ip)
	key := m.run("swarm", "unlock-key", "-q")
	m.kill()
	m.start()
	eventually(t, "it is locked", func() error {
		out := m.run("info", "-f", "{{.Swarm.LocalNodeState}}")
		return unless(out == "locked", "%s", out)
	})
	m.fails([]string{"swarm unlock"}, "node", "ls")
	unlock := func(key string) error {
		cmd := m.command("swarm", "unlock")
		cmd.Stdin = strings.NewReader(key + "\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := unlock("SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"); err == nil || !strings.Contains(err.Error(), "invalid key") {
		t.Errorf("a wrong key: %v", err)
	}
	if err := unlock(key); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is ready", func() error {
		out := m.output("node", "ls", "--format", "{{.Status}}")
		return unless(out == "Ready", "%s", out)
	})
}
