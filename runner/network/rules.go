package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table, as `nft list` prints it for networks on the bridges gantry0 and gb-1 (internal):
//
//	set bridges  { type ifname: gantry0, gb-1 }
//	set internal { type ifname: gb-1 }
//	set open     { type ifname: networks that neighbours may reach at any port }
//	set talk     { type ifname . ifname: gantry0 . gantry0, gb-1 . gb-1 }
//	map published4    { type inet_proto . inet_service : ipv4_addr . inet_service }
//	map published4_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//	map published6, published6_at  { the same for IPv6 }
//	chain raw         { hook prerouting priority -300: iifname != "lo" ip daddr 127.0.0.0/8 drop }
//	chain prerouting  { hook prerouting priority -100: dnat by published_at; fib daddr type local, dnat by published }
//	chain output      { the same for what the host itself sends }
//	chain forward     { hook forward: between containers of a network, replies, published ports and what leaves a
//	                    network are accepted; all else from an internal network, and to any network, is dropped }
//	chain postrouting { masquerade: subnets leaving; loopback entering; container to container by way of the host }
//
// The raw chain is there because bridges have route_localnet: without it a container, or a neighbour of the host,
// could address services that listen on the host's loopback, or ports published on 127.0.0.1 only.
// The drops in forward keep networks apart, and ports that are not published unreachable for neighbours that add a
// route to a subnet.
const (
	setBridges  = "bridges"
	setInternal = "internal"
	setOpen     = "open"
	setTalk     = "talk"
)

// Registers: a concatenation begins in a 16-byte register and its further words are addressed as 4-byte ones.
const (
	reg1  = unix.NFT_REG_1
	reg2  = unix.NFT_REG_2
	word0 = unix.NFT_REG32_00
)

// ctStatusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ctStatusDNAT = 1 << 5

// family is what differs between IPv4 and IPv6.
type family struct {
	proto       uint8  // NFPROTO_*
	source      uint32 // offset of the source address in the header
	destination uint32
	size        uint32 // of an address, in bytes
	suffix      string // of the maps' names
	kind        nftables.SetDatatype
}

var (
	ipv4 = family{unix.NFPROTO_IPV4, 12, 16, 4, "4", nftables.TypeIPAddr}
	ipv6 = family{unix.NFPROTO_IPV6, 8, 24, 16, "6", nftables.TypeIP6Addr}
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

func (f family) published() string   { return "published" + f.suffix }
func (f family) publishedAt() string { return f.published() + "_at" }

// element is one published port: a key and a value of one of the maps.
type element struct {
	in  string // name of the map
	key string
	val string
}

func elementOf(p Port, to netip.Addr) element {
	f := familyOf(to)
	e := element{in: f.published()}
	var key []byte
	if !p.HostIP.IsUnspecified() {
		e.in, key = f.publishedAt(), p.HostIP.AsSlice()
	}
	key = append(key, p.number(), 0, 0, 0)
	e.key = string(append(binary.BigEndian.AppendUint16(key, p.HostPort), 0, 0))
	e.val = string(append(binary.BigEndian.AppendUint16(to.AsSlice(), p.ContainerPort), 0, 0))
	return e
}

// elementsOf are the maps' elements of a container's ports: those for its address of each port's family.
func elementsOf(l lease) (es []element) {
	for _, p := range l.Ports {
		if to := l.address(p.HostIP.Is4()); to.IsValid() {
			es = append(es, elementOf(p, to))
		}
	}
	return es
}

// portMaps describes the maps. Set ids only have to be unique within a transaction; giving them here keeps the library
// from counting them in an unguarded global.
func portMaps(t *nftables.Table) []*nftables.Set {
	var all []*nftables.Set
	for i, f := range []family{ipv4, ipv6} {
		target := nftables.MustConcatSetType(f.kind, nftables.TypeInetService)
		all = append(all, &nftables.Set{
			Table: t, ID: uint32(2*i + 1), Name: f.published(), IsMap: true, Concatenation: true, DataType: target,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		}, &nftables.Set{
			Table: t, ID: uint32(2*i + 2), Name: f.publishedAt(), IsMap: true, Concatenation: true, DataType: target,
			KeyType: nftables.MustConcatSetType(f.kind, nftables.TypeInetProto, nftables.TypeInetService),
		})
	}
	return all
}

// deviceSets describes the sets of devices.
func deviceSets(t *nftables.Table) []*nftables.Set {
	return []*nftables.Set{
		{Table: t, ID: 11, Name: setBridges, KeyType: nftables.TypeIFName},
		{Table: t, ID: 12, Name: setInternal, KeyType: nftables.TypeIFName},
		{Table: t, ID: 13, Name: setOpen, KeyType: nftables.TypeIFName},
		{Table: t, ID: 14, Name: setTalk, KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName),
			Concatenation: true},
	}
}

// ---- expressions, each the part of a rule that its name says ----

func (f family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{f.proto}}}
}

func (f family) loadDestination() expr.Any {
	return &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: f.destination, Len: f.size}
}

// within continues a rule when the address at an offset is in the prefix.
func (f family) within(offset uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, f.size)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return append(f.is(),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	)
}

func sourceIn(p netip.Prefix) []expr.Any {
	f := familyOf(p.Addr())
	return f.within(f.source, p)
}

func destinationIn(p netip.Prefix) []expr.Any {
	f := familyOf(p.Addr())
	return f.within(f.destination, p)
}

// ifname is a device's name as the kernel compares it.
func ifname(name string) []byte {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return data
}

func deviceIs(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Cmp{Op: op, Register: reg1, Data: ifname(name)}}
}

// deviceIn continues a rule when the device is in a set.
func deviceIn(key expr.MetaKey, set string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Lookup{SourceRegister: reg1, SetName: set}}
}

// talking continues a rule when both devices are in the set of pairs.
func talking() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg2},
		&expr.Lookup{SourceRegister: reg1, SetName: setTalk},
	}
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
func protoAndPort(at uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at},
		&expr.Payload{DestRegister: at + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// translate looks the words that are loaded from the first register on up in a map, and rewrites the destination to
// what it says.
func (f family) translate(m string) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: m},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: reg1, RegProtoMin: word0 + f.size/4},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
func masquerade() []expr.Any                   { return []expr.Any{&expr.Masq{}} }
