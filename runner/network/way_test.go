package network

import (
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/gantry-build/gantry/internal/check"
)

// Where another table drops what it does not know, packets of containers pass, and nothing else does; what is put there
// for that goes with the network.
func TestPassesFirewall(t *testing.T) {
	needHost(t)
	conn, err := connect()
	must(t, err)
	firewall := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyINet})
	drop := nftables.ChainPolicyDrop
	chain := conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: firewall, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	conn.AddRule(&nftables.Rule{Table: firewall, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}}) // its owner's
	must(t, conn.Flush())
	defer func() {
		conn.DelTable(firewall)
		must(t, conn.Flush())
	}()
	neighbour := newNeighbour(t)
	neighbour.serve(t, neighbourAddr+":80")
	b := openBridge(t, testOptions(t))
	web, _ := attach(t, b, "web", Port{HostPort: 8080, ContainerPort: 80})
	web.serve(t, ":80")
	attach(t, b, "other")
	wantPeer(t, "out", web, neighbourAddr+":80", hostAddr)
	wantPeer(t, "in", neighbour, hostAddr+":8080", "")
	rules := func() int {
		rules, err := conn.GetRules(firewall, chain)
		must(t, err)
		return len(rules)
	}
	if n := rules(); n != 3 {
		t.Errorf("%d rules in the firewall's chain, want its own and two", n)
	}
	if f := firewallOf(t, b.host.opts); !strings.Contains(f.Text, "chain FORWARD of table filter") {
		t.Errorf("checked: %+v", f)
	}
	later := conn.AddTable(&nftables.Table{Name: "later", Family: nftables.TableFamilyIPv4}) // as a dockerd that starts now
	conn.AddChain(&nftables.Chain{Name: "FORWARD", Table: later, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	must(t, conn.Flush())
	defer func() {
		conn.DelTable(later)
		must(t, conn.Flush())
	}()
	cut(t, "out past a firewall that has just come", web, neighbourAddr+":80")
	attach(t, b, "third")
	wantPeer(t, "out after the next container has come", web, neighbourAddr+":80", hostAddr)
	must(t, b.host.Clear(t.Context()))
	if n := rules(); n != 1 {
		t.Errorf("%d rules in the firewall's chain after the network's end, want its own", n)
	}
}

// firewallOf is what Check says of other people's rules; everything is to be well.
func firewallOf(t *testing.T, o Options) (found check.Finding) {
	t.Helper()
	for _, f := range Check(o) {
		if f.Subject == "firewall" {
			found = f
		}
		if f.Next != "" {
			t.Errorf("%+v", f)
		}
	}
	return found
}
