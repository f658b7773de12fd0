package main

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// BenchmarkClusterNetwork sends between two nodes by an overlay network, and beside it by the network below; by a service's virtual
// address, and beside it straight to its task.
func BenchmarkClusterNetwork(b *testing.B) {
	m, w := sinkAndClient(b)
	m.run("run", "-d", "--network", "host", "probe", "sink", m.ip+":9001")
	w.run("run", "-d", "--name", "below", "--network", "host", "probe", "sleep")
	task, vip := "", ""
	eventually(b, "the service and its task have names", func() (err error) {
		if task, err = w.inTask("client", "ask", "tasks.sink"); err == nil {
			vip, err = w.inTask("client", "ask", "sink")
		}
		return err
	})
	took := func(out string, err error) time.Duration { b.Helper(); return probed(b, out, err) }
	below := func(args ...string) time.Duration {
		return took(w.run(append([]string{"exec", "below", "/probe"}, args...)...), nil)
	}
	over := func(args ...string) time.Duration { return took(w.inTask("client", args...)) }
	flood := row{name: "512 MiB by the overlay (beside it: by the network below)"}
	floodVIP := row{name: "512 MiB by a service's virtual address (beside it: to its task)"}
	open := row{name: "1,000 connections by the overlay (beside it: by the network below)"}
	openVIP := row{name: "1,000 connections by a service's virtual address (beside it: to its task)"}
	for range 5 {
		direct := over("flood", task+":9000", "512")
		flood.gantry, flood.peer = append(flood.gantry, direct), append(flood.peer, below("flood", m.ip+":9001", "512"))
		floodVIP.gantry, floodVIP.peer = append(floodVIP.gantry, over("flood", vip+":9000", "512")), append(floodVIP.peer, direct)
		direct = over("connect", task+":9000", "1000")
		open.gantry, open.peer = append(open.gantry, direct), append(open.peer, below("connect", m.ip+":9001", "1000"))
		openVIP.gantry, openVIP.peer = append(openVIP.gantry, over("connect", vip+":9000", "1000")), append(openVIP.peer, direct)
	}
	report(b, "overlay", "the other way", []row{flood, floodVIP, open, openVIP})
}

// sinkAndClient is a cluster of two nodes with a task on the first that takes what is sent, and one on the second, in one network.
func sinkAndClient(b *testing.B) (m, w *host) {
	b.Helper()
	hosts := newCluster(b, 1, 1)
	m, w = hosts[0], hosts[1]
	m.run("network", "create", "-d", "overlay", "n")
	m.service("--name", "sink", "--network", "n", "--constraint", "node.hostname==host1", "probe", "sink", ":9000")
	m.service("--name", "client", "--network", "n", "--constraint", "node.hostname==host2", "probe", "sleep")
	m.untilRuns("sink", 1)
	m.untilRuns("client", 1)
	return m, w
}

// probed is the time that the probe says it took.
func probed(b *testing.B, out string, err error) time.Duration {
	b.Helper()
	d, perr := time.ParseDuration(strings.TrimSpace(out))
	if err != nil || perr != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return d
}

// BenchmarkClusterNetworkAgainstDocker sends between two nodes by an overlay network of gantry's and by one of Debian's docker.io in
// Swarm mode, in network namespaces of one kind, in turn. Tasks are asked straight: docker.io's virtual addresses want IPVS.
func BenchmarkClusterNetworkAgainstDocker(b *testing.B) {
	m, w := sinkAndClient(b)
	task := ""
	eventually(b, "the task has a name", func() (err error) {
		task, err = w.inTask("client", "ask", "tasks.sink")
		return err
	})
	docker := newDockerSwarm(b, m)
	flood, open := row{name: "512 MiB between two nodes"}, row{name: "1,000 connections between two nodes"}
	for range 5 {
		for _, r := range []struct {
			*row
			args []string
		}{{&flood, []string{"flood", "512"}}, {&open, []string{"connect", "1000"}}} {
			out, err := w.inTask("client", r.args[0], task+":9000", r.args[1])
			r.gantry = append(r.gantry, probed(b, out, err))
			out = docker.client("exec", docker.asks, "/probe", r.args[0], docker.sink+":9000", r.args[1])
			r.peer = append(r.peer, probed(b, out, nil))
		}
	}
	report(b, "swarm", "docker.io of Debian", []row{flood, open})
}

// dockerSwarm is two nodes of Debian's docker.io, a task on the first that takes what is sent, and one on the second.
type dockerSwarm struct {
	client     func(args ...string) string // the docker of the second
	sink, asks string                      // the one's address, the other's container
}

func newDockerSwarm(b *testing.B, images *host) (s dockerSwarm) {
	b.Helper()
	program, err := filepath.Abs("../../.cache/peers/docker.io/usr/bin/docker")
	if err != nil {
		b.Fatal(err)
	}
	image := filepath.Join(b.TempDir(), "probe.tar")
	images.run("save", "-o", image, "--platform", "linux/"+runtime.GOARCH, "probe")
	on := func(at seat) func(...string) string {
		socket := startDocker(b, at.enter())
		return func(args ...string) string {
			b.Helper()
			out, err := exec.Command(program, append([]string{"-H", "unix://" + socket}, args...)...).CombinedOutput()
			if err != nil {
				b.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
			}
			return strings.TrimSpace(string(out))
		}
	}
	seats := newSeats(b, 2)
	first, second := on(seats[0]), on(seats[1])
	first("load", "-q", "-i", image)
	second("load", "-q", "-i", image)
	first("swarm", "init", "--advertise-addr", seats[0].ip)
	second("swarm", "join", "--token", first("swarm", "join-token", "-q", "worker"), seats[0].ip)
	first("network", "create", "-d", "overlay", "n")
	container := func(docker func(...string) string, name, node string, args ...string) (id string) {
		first(append([]string{"service", "create", "-d", "-q", "--no-resolve-image", "--name", name, "--network", "n",
			"--endpoint-mode", "dnsrr", "--constraint", "node.hostname==" + node, "probe"}, args...)...)
		eventually(b, name+" runs", func() error {
			id = docker("ps", "-q", "--filter", "label=com.docker.swarm.service.name="+name)
			return unless(id != "", "%s", first("service", "ps", "--no-trunc", name))
		})
		return id
	}
	sink := container(first, "sink", seats[0].name, "sink", ":9000")
	s.sink = first("inspect", "-f", `{{(index .NetworkSettings.Networks "n").IPAddress}}`, sink)
	s.client, s.asks = second, container(second, "client", seats[1].name, "sleep")
	return s
}
