package network

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Virtual is an address whose connections go to others in turn.
type Virtual struct {
	Addr     netip.Addr
	Backends []netip.Addr // of the same family
}

// MeshPort is a port of the host, on all of its addresses, whose connections go to others in turn.
type MeshPort struct {
	Protocol string // tcp, udp or sctp
	Number   uint16
	Backends []netip.AddrPort
}

// Mesh is what a node's published ports lead to.
type Mesh struct {
	Device string       // of the network on which the backends are
	Node   []netip.Addr // this node's own addresses there: backends on other nodes answer to them
	Local  []netip.Addr // backends on this node, which see who asks
	Ports  []MeshPort
}

// virtualTable has a container's virtual addresses, in its namespace. Whoever may change the container's firewall may change it.
const virtualTable = "gantry_vip"

// SetVirtual says what the virtual addresses of a process's network namespace are, in place of those that it has said before.
// Connections that there are go on as they are.
//
//	map vip4, vip6 { type ipv4_addr, ipv6_addr : verdict }
//	chain output   { hook output priority -100: ip daddr vmap @vip4, the same for IPv6 }
//	chain s0, ...  { dnat to numgen inc mod 2 map { 0: 10.0.1.3, 1: 10.0.1.4 } }
func SetVirtual(pid int, all []Virtual) error {
	ns, err := openSandbox(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	return setVirtual(ns, all)
}

func setVirtual(ns *os.File, all []Virtual) error {
	conn, err := connect(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("opening nftables: %w", needs("nf_tables", err))
	}
	b, err := newBalancer(conn, virtualTable)
	if err != nil || b.fresh && len(all) == 0 {
		return err
	}
	maps := map[bool]*nftables.Set{}
	for _, f := range []family{ipv4, ipv6} {
		maps[f == ipv4], err = b.verdicts("vip"+f.suffix, f.kind)
		if err != nil {
			return err
		}
	}
	out := b.chain("output", nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	for _, f := range []family{ipv4, ipv6} {
		b.rule(out, f.is(), []expr.Any{f.loadDestination()}, jumpBy("vip"+f.suffix))
	}
	for _, v := range all {
		var backends []netip.AddrPort
		for _, a := range v.Backends {
			backends = append(backends, netip.AddrPortFrom(a, 0))
		}
		if err := b.spread(maps[v.Addr.Is4()], v.Addr.AsSlice(), backends); err != nil {
			return err
		}
	}
	return b.flush()
}

// SetMesh says what the host's published ports lead to, in place of what it has said before; nil takes all away.
//
//	map ports4, ports6 { type inet_proto . inet_service : verdict }
//	set local4, local6 { backends on this node }
//	chain prerouting, output { fib daddr type local, l4proto . dport vmap @ports4, the same for IPv6 }
//	chain postrouting { oif the network's, dnat, ip daddr != @local4: snat to this node's address there }
func (h *Host) SetMesh(m *Mesh) error {
	h.devices.Lock()
	defer h.devices.Unlock()
	conn, err := connect()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", needs("nf_tables", err))
	}
	b, err := newBalancer(conn, h.opts.Table+"_mesh")
	if err != nil || b.fresh && m == nil {
		return err
	}
	if m == nil {
		conn.DelTable(b.table)
		return b.flush()
	}
	maps := map[bool]*nftables.Set{}
	for _, f := range []family{ipv4, ipv6} {
		key := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
		if maps[f == ipv4], err = b.verdicts("ports"+f.suffix, key); err != nil {
			return err
		}
	}
	for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		c := b.chain(name, hook, *nftables.ChainPriorityNATDest)
		b.rule(c, destinationIn(loopback6), verdict(expr.VerdictReturn)) // it has no way into a bridge
		for _, f := range []family{ipv4, ipv6} {
			b.rule(c, f.is(), localDestination(), protoAndPort(word0), jumpBy("ports"+f.suffix))
		}
	}
	if err := b.answers(m); err != nil {
		return err
	}
	for _, p := range m.Ports {
		number := Port{Proto: p.Protocol}.number()
		key := []byte{number, 0, 0, 0, byte(p.Number >> 8), byte(p.Number), 0, 0}
		for is4, to := range maps {
			backends := slices.DeleteFunc(slices.Clone(p.Backends), func(a netip.AddrPort) bool { return a.Addr().Is4() != is4 })
			if err := b.spread(to, key, backends); err != nil {
				return err
			}
		}
	}
	return b.flush()
}

// HasMesh says whether the kernel still has the table of SetMesh: somebody may have flushed it.
func (h *Host) HasMesh() (bool, error) {
	conn, err := connect()
	if err != nil {
		return false, fmt.Errorf("opening nftables: %w", needs("nf_tables", err))
	}
	t, err := conn.ListTableOfFamily(h.opts.Table+"_mesh", nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return t != nil, err
}

// balancer writes a table anew in one transaction.
type balancer struct {
	conn   *nftables.Conn
	table  *nftables.Table
	fresh  bool // there was none
	chains int
	sets   uint32
}

func newBalancer(conn *nftables.Conn, name string) (*balancer, error) {
	b := &balancer{conn: conn, table: &nftables.Table{Name: name, Family: nftables.TableFamilyINet}}
	old, err := conn.ListTableOfFamily(name, nftables.TableFamilyINet)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("looking for nftables table %s: %w", name, err)
	}
	if b.fresh = old == nil; !b.fresh {
		conn.DelTable(b.table) // only then, as a deletion makes the kernel wait
	}
	conn.AddTable(b.table)
	return b, nil
}

func (b *balancer) flush() error {
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("writing nftables table %s: %w", b.table.Name, err)
	}
	return nil
}

// id numbers the sets of a transaction.
func (b *balancer) id() uint32 {
	b.sets++
	return b.sets
}

func (b *balancer) chain(name string, hook *nftables.ChainHook, prio nftables.ChainPriority) *nftables.Chain {
	return layout{conn: b.conn, table: b.table}.chain(name, nftables.ChainTypeNAT, hook, &prio)
}

func (b *balancer) rule(c *nftables.Chain, parts ...[]expr.Any) {
	layout{conn: b.conn, table: b.table}.rule(c, parts...)
}

// verdicts makes a map to chains.
func (b *balancer) verdicts(name string, key nftables.SetDatatype) (*nftables.Set, error) {
	s := &nftables.Set{Table: b.table, ID: b.id(), Name: name, IsMap: true, KeyType: key, DataType: nftables.TypeVerdict}
	s.Concatenation = key.Bytes == 8
	return s, b.conn.AddSet(s, nil)
}

// jumpBy goes where a map says for what is loaded.
func jumpBy(m string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg1, DestRegister: 0, IsDestRegSet: true, SetName: m}}
}

// spread makes a chain that leads to the backends in turn, and enters it in a map.
func (b *balancer) spread(in *nftables.Set, key []byte, backends []netip.AddrPort) error {
	if len(backends) == 0 {
		return nil
	}
	f := familyOf(backends[0].Addr())
	to := &nftables.Set{
		Table: b.table, ID: b.id(), Name: "__map%d", Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: f.kind,
	}
	ports := backends[0].Port() != 0
	if ports {
		to.DataType = nftables.MustConcatSetType(f.kind, nftables.TypeInetService)
	}
	var elements []nftables.SetElement
	for i, a := range backends {
		value := a.Addr().AsSlice()
		if ports {
			value = append(value, byte(a.Port()>>8), byte(a.Port()), 0, 0)
		}
		elements = append(elements, nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: value})
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: reg1}
	if ports {
		nat.RegProtoMin = word0 + f.size/4
	}
	if err := b.conn.AddSet(to, elements); err != nil {
		return err
	}
	c := b.conn.AddChain(&nftables.Chain{Name: fmt.Sprint("s", b.chains), Table: b.table})
	b.chains++
	b.rule(c, []expr.Any{
		&expr.Numgen{Register: reg1, Modulus: uint32(len(backends)), Type: unix.NFT_NG_INCREMENTAL},
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: to.Name, SetID: to.ID}, nat,
	})
	return b.conn.SetAddElements(in, []nftables.SetElement{
		{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}},
	})
}

// answers has backends on other nodes answer to this one. It goes before the table of the networks, which would give the gateway's
// address, that all nodes have.
func (b *balancer) answers(m *Mesh) error {
	c := b.chain("postrouting", nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource-1)
	for _, f := range []family{ipv4, ipv6} {
		local := &nftables.Set{Table: b.table, ID: b.id(), Name: "local" + f.suffix, KeyType: f.kind}
		var elements []nftables.SetElement
		for _, a := range m.Local {
			if familyOf(a) == f {
				elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		slices.SortFunc(elements, func(a, b nftables.SetElement) int { return cmp.Compare(string(a.Key), string(b.Key)) })
		if err := b.conn.AddSet(local, elements); err != nil {
			return err
		}
		for _, a := range m.Node {
			if familyOf(a) != f {
				continue
			}
			b.rule(c, f.is(), deviceIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, m.Device), conntrack(expr.CtKeySTATUS, ctStatusDNAT),
				[]expr.Any{f.loadDestination(), &expr.Lookup{SourceRegister: reg1, SetName: local.Name, SetID: local.ID, Invert: true},
					&expr.Immediate{Register: reg1, Data: a.AsSlice()},
					&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.proto), RegAddrMin: reg1}})
		}
	}
	return nil
}
