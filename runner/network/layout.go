package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// layout puts a whole table into one transaction.
type layout struct {
	conn   *nftables.Conn
	table  *nftables.Table
	device string
	subnet netip.Prefix
}

func (y layout) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	return y.conn.AddChain(&nftables.Chain{Name: name, Table: y.table, Type: kind, Hooknum: hook, Priority: prio, Policy: &policy})
}

func (y layout) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	y.conn.AddRule(&nftables.Rule{Table: y.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

// add writes the chains; the maps must be in the same transaction.
func (y layout) add(published, at *nftables.Set) {
	y.raw()
	y.destinations("prerouting", nftables.ChainHookPrerouting, published, at)
	y.destinations("output", nftables.ChainHookOutput, published, at)
	y.forward()
	y.postrouting()
}

func (y layout) raw() {
	c := y.chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	y.rule(c, device(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), destinationIn(loopback), verdict(expr.VerdictDrop))
}

func (y layout) destinations(name string, hook *nftables.ChainHook, published, at *nftables.Set) {
	c := y.chain(name, nftables.ChainTypeNAT, hook, nftables.ChainPriorityNATDest)
	y.rule(c, []expr.Any{destination(reg1)}, protoAndPort(word2, word3), translate(at))
	y.rule(c, localDestination(), protoAndPort(reg1, word2), translate(published))
}

func (y layout) forward() {
	c := y.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	in := device(expr.MetaKeyIIFNAME, expr.CmpOpEq, y.device)
	out := device(expr.MetaKeyOIFNAME, expr.CmpOpEq, y.device)
	known := conntrack(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	y.rule(c, in, verdict(expr.VerdictAccept))
	y.rule(c, out, known, verdict(expr.VerdictAccept))
	y.rule(c, out, conntrack(expr.CtKeySTATUS, ctStatusDNAT), verdict(expr.VerdictAccept))
	y.rule(c, out, verdict(expr.VerdictDrop))
}

// postrouting: a container answers a neighbour on its bridge directly, so what one container sends to another by a
// published port must come from the host's address, or the answer would bypass the translation.
func (y layout) postrouting() {
	c := y.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	out := device(expr.MetaKeyOIFNAME, expr.CmpOpEq, y.device)
	y.rule(c, sourceIn(y.subnet), device(expr.MetaKeyOIFNAME, expr.CmpOpNeq, y.device), masquerade())
	y.rule(c, sourceIn(loopback), out, masquerade())
	y.rule(c, sourceIn(y.subnet), out, conntrack(expr.CtKeySTATUS, ctStatusDNAT), masquerade())
}
