package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// needs explains an error by the kernel module whose absence causes it, or by missing rights.
func needs(module string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: the daemon needs CAP_NET_ADMIN; start it as root", err)
	case unsupported(err):
		return fmt.Errorf("%w: the kernel lacks %s; run `modprobe %s`, or build the kernel with it", err, module, module)
	}
	return err
}

func unsupported(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOTSUP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// feature is what the table needs of the kernel, with the module that has it.
type feature struct {
	module string
	kind   nftables.ChainType
	hook   *nftables.ChainHook
	exprs  []expr.Any
}

func features() []feature {
	pre, post := nftables.ChainHookPrerouting, nftables.ChainHookPostrouting
	return []feature{
		{"nf_tables", nftables.ChainTypeFilter, pre, nil},
		{"nft_chain_nat", nftables.ChainTypeNAT, pre, nil},
		{"nft_fib_inet", nftables.ChainTypeFilter, pre, localDestination()},
		{"nft_ct", nftables.ChainTypeFilter, pre, conntrack(expr.CtKeySTATUS, ctStatusDNAT)},
		{"nft_masq", nftables.ChainTypeNAT, post, masquerade()},
		{"nft_nat", nftables.ChainTypeNAT, pre, []expr.Any{
			&expr.Immediate{Register: reg1, Data: []byte{127, 0, 0, 1}},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg1},
		}},
	}
}

// diagnose finds out which feature the kernel refuses. A refused transaction only says "no such file or directory";
// so each feature is tried in a table of its own whose chain never sees a packet: it is deleted in the transaction.
func diagnose(err error, scratch string) error {
	if !unsupported(err) {
		return needs("nf_tables", err)
	}
	for _, f := range features() {
		if probe := f.try(scratch); unsupported(probe) {
			return needs(f.module, err)
		}
	}
	return err
}

func (f feature) try(scratch string) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	t := conn.AddTable(&nftables.Table{Name: scratch, Family: nftables.TableFamilyINet})
	y := layout{conn: conn, table: t}
	c := y.chain("probe", f.kind, f.hook, nftables.ChainPriorityNATDest)
	if f.exprs != nil {
		y.rule(c, f.exprs)
	}
	conn.DelTable(t)
	return conn.Flush()
}
