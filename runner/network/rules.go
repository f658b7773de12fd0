package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table, as `nft list` prints it for a bridge gantry0:
//
//	map published    { type inet_proto . inet_service : ipv4_addr . inet_service }
//	map published_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//	chain raw         { hook prerouting priority -300: iifname != "lo" ip daddr 127.0.0.0/8 drop }
//	chain prerouting  { hook prerouting priority -100: dnat by published_at; fib daddr type local, dnat by published }
//	chain output      { the same for what the host itself sends }
//	chain forward     { hook forward: iifname gantry0 accept; oifname gantry0: replies and dnat accept, else drop }
//	chain postrouting { masquerade: subnet leaving; loopback entering; container to container by way of the host }
//
// The raw chain is there because the bridge has route_localnet: without it a container, or a neighbour of the host,
// could address services that listen on the host's loopback, or ports published on 127.0.0.1 only.
// The drop in forward keeps ports that are not published unreachable for neighbours that add a route to the subnet.
const (
	mapPublished   = "published"
	mapPublishedAt = "published_at"
)

// Registers: a concatenation begins in a 16-byte register and its further words are addressed as 4-byte ones.
const (
	reg1  = unix.NFT_REG_1
	word2 = unix.NFT_REG32_01
	word3 = unix.NFT_REG32_02
)

// ctStatusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ctStatusDNAT = 1 << 5

// element is one published port: 8 bytes of key for published, 12 for published_at.
type element struct {
	key string
	val [8]byte
}

func elementOf(p Port, to netip.Addr) element {
	var key []byte
	if !p.HostIP.IsUnspecified() {
		key = p.HostIP.AsSlice()
	}
	key = append(key, p.number(), 0, 0, 0)
	key = append(binary.BigEndian.AppendUint16(key, p.HostPort), 0, 0)
	e := element{key: string(key)}
	copy(e.val[:4], to.AsSlice())
	binary.BigEndian.PutUint16(e.val[4:], p.ContainerPort)
	return e
}

func elementsOf(l lease) []element {
	var es []element
	for _, p := range l.Ports {
		es = append(es, elementOf(p, l.IP))
	}
	return es
}

// portMaps describes the two maps. Set ids only have to be unique within a transaction; giving them here keeps the
// library from counting them in an unguarded global.
func portMaps(t *nftables.Table) (published, at *nftables.Set) {
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	published = &nftables.Set{
		Table: t, ID: 1, Name: mapPublished, IsMap: true, Concatenation: true, DataType: target,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
	at = &nftables.Set{
		Table: t, ID: 2, Name: mapPublishedAt, IsMap: true, Concatenation: true, DataType: target,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	return published, at
}

// ---- expressions, each the part of a rule that its name says ----

func destination(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

// within continues a rule when the source (offset 12) or destination (16) address is in the prefix.
func within(offset uint32, p netip.Prefix) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: maskOf(p), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	}
}

func sourceIn(p netip.Prefix) []expr.Any      { return within(12, p) }
func destinationIn(p netip.Prefix) []expr.Any { return within(16, p) }

func maskOf(p netip.Prefix) []byte {
	return binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
}

func device(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Cmp{Op: op, Register: reg1, Data: data}}
}

// conntrack continues a rule when the connection has one of the bits.
func conntrack(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits),
			Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

func localDestination() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// protoAndPort loads the protocol and the destination port into two consecutive words.
func protoAndPort(proto, port uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// translate looks the loaded words up in a map and rewrites the destination to what it says.
func translate(m *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1, RegProtoMin: word2},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
func masquerade() []expr.Any                   { return []expr.Any{&expr.Masq{}} }
