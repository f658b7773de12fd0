package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gantry-build/gantry/internal/check"
	"github.com/gantry-build/gantry/runner/cluster/topology"
	"github.com/gantry-build/gantry/runner/network"
)

const (
	// probeWait is how long something of another node may take to answer.
	probeWait = 2 * time.Second
	// mostSkew is how far apart two nodes' clocks may be: SwarmKit's certificates begin an hour early, but logs and timeouts suffer.
	mostSkew = 5 * time.Second
)

// Examine checks from here whether this node reaches the cluster's managers, and the containers of all other nodes.
func (c *Cluster) Examine(ctx context.Context) ([]check.Finding, error) {
	m := c.current()
	if m == nil {
		return nil, ErrNone
	}
	var mu sync.Mutex
	var all []check.Finding
	var asking sync.WaitGroup
	look := func(f func() check.Finding) {
		asking.Go(func() {
			found := f()
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found)
		})
	}
	st := m.status()
	for _, p := range st.Remotes {
		host, _, err := net.SplitHostPort(p.Addr)
		if err != nil || st.Manager && p.NodeID == st.NodeID {
			continue
		}
		look(func() check.Finding { return reaches(ctx, p.Addr, "the cluster's control") })
		at := net.JoinHostPort(host, strconv.Itoa(topology.ListenPort))
		look(func() check.Finding { return m.clock(ctx, at) })
	}
	for _, k := range m.nets.snapshot() {
		if !k.Ingress {
			continue
		}
		for _, e := range k.Ends {
			if e.Node != "" && e.At != m.dataPath() && e.Addr.Is4() {
				look(func() check.Finding { return m.nets.path(ctx, k.ID, e) })
			}
		}
	}
	members, err := c.Members(ctx)
	for _, o := range members {
		look(func() check.Finding { return gives(ctx, o) })
	}
	asking.Wait()
	return append(all, forwards()), err
}

// reaches checks a TCP port of a manager.
func reaches(ctx context.Context, address, what string) check.Finding {
	f := check.Finding{Subject: "manager " + address, Text: what + " answers"}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		_, port, _ := net.SplitHostPort(address)
		f.Text = fmt.Sprintf("%s does not answer: %v", what, err)
		f.Next = "open TCP " + port + " of the managers to all nodes, and look whether the manager runs"
		return f
	}
	conn.Close()
	return f
}

// gives checks the port by which nodes give each other images.
func gives(ctx context.Context, o topology.Member) check.Finding {
	f := check.Finding{Subject: fmt.Sprintf("node %s at %s", o.Name, o.At), Text: "gives other nodes the images that it has"}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", o.At)
	if err != nil {
		f.Text = fmt.Sprintf("images that only it has are not to be had: %v", err)
		f.Next = fmt.Sprintf("open TCP %d between all nodes", topology.ListenPort)
		return f
	}
	conn.Close()
	return f
}

// clock checks the port by which nodes are told of networks, and whether that manager's clock goes as this one.
func (m *member) clock(ctx context.Context, address string) check.Finding {
	f := check.Finding{Subject: "manager " + address}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	theirs, err := topology.Clock(ctx, address, m.identity())
	if err != nil {
		f.Text = fmt.Sprintf("what is on the cluster's networks is not told: %v", err)
		f.Next = fmt.Sprintf("open TCP %d of the managers to all nodes", topology.ListenPort)
		return f
	}
	skew := time.Until(theirs).Abs().Round(time.Second)
	f.Text = fmt.Sprintf("tells what is on the cluster's networks; the clocks are %s apart", skew)
	if skew > mostSkew {
		f.Next = "set the clocks of both, as NTP does"
	}
	return f
}

// path checks whether packets reach another node's end of the network of published ports, small and large.
func (n *networks) path(ctx context.Context, id string, to topology.End) check.Finding {
	f := check.Finding{Subject: fmt.Sprintf("node %s at %s", to.Node, to.At)}
	rec, err := n.o.Runner.NetworkOf(id)
	if err != nil || rec.Config.Overlay == nil {
		f.Text, f.Next = "the network of published ports is not here", "see the daemon's log"
		return f
	}
	from := netip.Addr{}
	for _, a := range rec.Config.Overlay.Node {
		if a.Is4() {
			from = a
		}
	}
	small, err := network.Ping(ctx, from, to.Addr, 64, probeWait)
	if err != nil {
		f.Text = fmt.Sprintf("its containers are not reached: %v", err)
		f.Next = fmt.Sprintf("open UDP %d between all nodes", rec.Config.Overlay.Port)
		return f
	}
	if _, err := network.Ping(ctx, from, to.Addr, rec.Config.MTU, probeWait); err != nil {
		f.Text = fmt.Sprintf("small packets reach its containers, and those of %d bytes do not: %v", rec.Config.MTU, err)
		f.Next = "lower the MTU of the nodes' devices to what the way between them passes, and restart their daemons"
		return f
	}
	f.Text = fmt.Sprintf("its containers are reached in %s, by packets of up to %d bytes", small.Round(10*time.Microsecond), rec.Config.MTU)
	return f
}

func forwards() check.Finding {
	f := check.Finding{Subject: "this machine", Text: "forwards packets to containers"}
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil || strings.TrimSpace(string(data)) != "1" {
		f.Text = fmt.Sprint("does not forward packets to containers ", errors.Join(err))
		f.Next = "sysctl -w net.ipv4.ip_forward=1"
	}
	return f
}
