package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

var (
	loopback  = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// policy is what the table does for one network.
type policy struct {
	device     string
	subnets    []netip.Prefix
	internal   bool           // nobody gets out, and nobody in
	talk       bool           // its containers reach each other
	open       bool           // neighbours reach ports that are not published
	masquerade []netip.Prefix // those of the subnets that leave with the host's address
	as         []netip.Addr   // the address that they leave with, by family; none: that of the way they take
}

// layout puts a whole table into one transaction.
type layout struct {
	conn     *nftables.Conn
	table    *nftables.Table
	policies []policy
}

func (y layout) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return y.conn.AddChain(&nftables.Chain{Name: name, Table: y.table, Type: kind, Hooknum: hook, Priority: prio, Policy: &policy})
}

func (y layout) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	y.conn.AddRule(&nftables.Rule{Table: y.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

// add writes the sets of devices and the chains; the maps must be in the same transaction.
func (y layout) add() error {
	for _, s := range deviceSets(y.table) {
		if err := y.conn.AddSet(s, y.members(s.Name)); err != nil {
			return err
		}
	}
	y.raw()
	y.destinations("prerouting", nftables.ChainHookPrerouting)
	y.destinations("output", nftables.ChainHookOutput)
	y.forward()
	y.postrouting()
	return nil
}

// members are the elements of one of the sets of devices.
func (y layout) members(set string) (es []nftables.SetElement) {
	for _, p := range y.policies {
		key := ifname(p.device)
		if set == setTalk {
			key = slices.Concat(key, key)
		}
		if set == setBridges || set == setInternal && p.internal || set == setOpen && p.open || set == setTalk && p.talk {
			es = append(es, nftables.SetElement{Key: key})
		}
	}
	return es
}

func (y layout) raw() {
	c := y.chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	y.rule(c, deviceIs(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), destinationIn(loopback), verdict(expr.VerdictDrop))
}

// destinations: the host's own ::1 has no way into a bridge, so what is sent to it is left alone.
func (y layout) destinations(name string, hook *nftables.ChainHook) {
	c := y.chain(name, nftables.ChainTypeNAT, hook, nftables.ChainPriorityNATDest)
	y.rule(c, destinationIn(loopback6), verdict(expr.VerdictReturn))
	for _, f := range []family{ipv4, ipv6} {
		y.rule(c, f.is(), []expr.Any{f.loadDestination()}, protoAndPort(word0+f.size/4), f.translate(f.publishedAt()))
		y.rule(c, f.is(), localDestination(), protoAndPort(word0), f.translate(f.published()))
	}
}

func (y layout) forward() {
	c := y.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	in, out := expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	known := conntrack(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	y.rule(c, talking(), verdict(expr.VerdictAccept))
	y.rule(c, deviceIn(in, setBridges), known, verdict(expr.VerdictAccept))
	y.rule(c, deviceIn(out, setBridges), known, verdict(expr.VerdictAccept))
	y.rule(c, deviceIn(in, setInternal), verdict(expr.VerdictDrop))
	y.rule(c, deviceIn(out, setInternal), verdict(expr.VerdictDrop))
	y.rule(c, deviceIn(out, setBridges), conntrack(expr.CtKeySTATUS, ctStatusDNAT), verdict(expr.VerdictAccept))
	y.rule(c, deviceIn(out, setOpen), verdict(expr.VerdictAccept))
	y.rule(c, deviceIn(out, setBridges), verdict(expr.VerdictDrop))
	y.rule(c, deviceIn(in, setBridges), verdict(expr.VerdictAccept))
}

// postrouting: a container answers a neighbour on its bridge directly, so what one container sends to another by a
// published port must come from the host's address, or the answer would bypass the translation.
func (y layout) postrouting() {
	c := y.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	y.rule(c, sourceIn(loopback), deviceIn(expr.MetaKeyOIFNAME, setBridges), masquerade())
	for _, p := range y.policies {
		out := deviceIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, p.device)
		for _, s := range p.masquerade {
			y.rule(c, sourceIn(s), deviceIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, p.device), p.leaving(s))
		}
		for _, s := range p.subnets {
			y.rule(c, sourceIn(s), out, conntrack(expr.CtKeySTATUS, ctStatusDNAT), masquerade())
		}
	}
}

// leaving gives what leaves a subnet another source.
func (p policy) leaving(subnet netip.Prefix) []expr.Any {
	for _, a := range p.as {
		if f := familyOf(a); a.Is4() == subnet.Addr().Is4() {
			return []expr.Any{
				&expr.Immediate{Register: reg1, Data: a.AsSlice()},
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.proto), RegAddrMin: reg1},
			}
		}
	}
	return masquerade()
}
