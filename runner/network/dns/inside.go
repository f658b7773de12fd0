package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/runner/network/netns"
)

// Address is where containers ask, at port 53, as in Docker. Images have it in their configurations.
const Address = "127.0.0.11"

// ServeInside answers at Address in a network namespace until Close. The sockets are bound to free ports, to which a
// table in the namespace leads from port 53, so that a container may have a name server of its own. What an earlier
// process has left of that table is replaced.
func ServeInside(ns *os.File, v *View, log *slog.Logger) (*Server, error) {
	var conn net.PacketConn
	var l net.Listener
	err := netns.Do(ns, func() (err error) {
		if conn, err = net.ListenPacket("udp4", Address+":0"); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", Address+":0")
		return err
	})
	if err == nil {
		err = redirect(ns, conn.LocalAddr().(*net.UDPAddr).Port, l.Addr().(*net.TCPAddr).Port)
	}
	if err != nil {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return nil, fmt.Errorf("the name server of a container: %w", err)
	}
	return Serve(conn, l, v, log), nil
}

// redirect leads Address:53 to the ports.
func redirect(ns *os.File, udp, tcp int) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: "gantry_dns", Family: nftables.TableFamilyIPv4}
	if old, err := conn.ListTableOfFamily(t.Name, t.Family); err == nil && old != nil {
		conn.DelTable(old) // only then, as a deletion makes the kernel wait
	}
	conn.AddTable(t)
	c := conn.AddChain(&nftables.Chain{
		Name: "output", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	for proto, port := range map[byte]int{unix.IPPROTO_UDP: udp, unix.IPPROTO_TCP: tcp} {
		conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(Address).To4()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, 53)},
			&expr.Immediate{Register: 1, Data: net.ParseIP(Address).To4()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, uint16(port))},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	return conn.Flush()
}
