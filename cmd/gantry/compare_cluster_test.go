package main

import (
	"strings"
	"testing"
	"time"
)

// BenchmarkClusterNetwork sends between two nodes by an overlay network, and beside it by the network below; by a service's virtual
// address, and beside it straight to its task.
func BenchmarkClusterNetwork(b *testing.B) {
	hosts := newCluster(b, 1, 1)
	m, w := hosts[0], hosts[1]
	m.run("network", "create", "-d", "overlay", "n")
	m.service("--name", "sink", "--network", "n", "--constraint", "node.hostname==host1", "probe", "sink", ":9000")
	m.service("--name", "client", "--network", "n", "--constraint", "node.hostname==host2", "probe", "sleep")
	m.run("run", "-d", "--network", "host", "probe", "sink", m.ip+":9001")
	w.run("run", "-d", "--name", "below", "--network", "host", "probe", "sleep")
	m.untilRuns("sink", 1)
	m.untilRuns("client", 1)
	task, vip := "", ""
	eventually(b, "the service and its task have names", func() (err error) {
		if task, err = w.inTask("client", "ask", "tasks.sink"); err == nil {
			vip, err = w.inTask("client", "ask", "sink")
		}
		return err
	})
	took := func(out string, err error) time.Duration {
		b.Helper()
		d, perr := time.ParseDuration(strings.TrimSpace(out))
		if err != nil || perr != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return d
	}
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
