package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// A packet passes the forward chains of all tables, and an accept of ours does not overrule another's drop. So where
// the host's own firewall, or another engine, drops what it does not know, each of our bridges has two rules at the
// head of that chain, marked as ours, which leave its packets to our own table.

// comment marks rules of ours in chains of others.
func (r *ruleset) comment() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, "gantry table "+r.table)
}

// droppers lists the chains of other tables that drop forwarded packets by policy.
func (r *ruleset) droppers() ([]*nftables.Chain, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn, err := r.session()
	if err != nil {
		return nil, err
	}
	var found []*nftables.Chain
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(f)
		if err != nil {
			r.hangUp()
			return nil, fmt.Errorf("looking for tables that drop forwarded packets: %w", err)
		}
		for _, c := range chains {
			if c.Table.Name != r.table && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward &&
				c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				found = append(found, c)
			}
		}
	}
	return found, nil
}

// passes lists our rules in a chain of another's, by the device that they are about. It is called with r.mu held.
func (r *ruleset) passes(conn *nftables.Conn, c *nftables.Chain) (map[string][]*nftables.Rule, error) {
	rules, err := conn.GetRules(c.Table, c)
	if err != nil {
		return nil, err
	}
	ours := map[string][]*nftables.Rule{}
	for _, rule := range rules {
		if !slices.Equal(rule.UserData, r.comment()) {
			continue
		}
		for _, e := range rule.Exprs {
			if cmp, ok := e.(*expr.Cmp); ok {
				ours[string(cmp.Data)] = append(ours[string(cmp.Data)], rule)
			}
		}
	}
	return ours, nil
}

// pass gives chains of others the rules for our bridges that they lack, and takes away those of bridges that are gone.
func (r *ruleset) pass(chains []*nftables.Chain) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn, err := r.session()
	if err != nil {
		return err
	}
	changed, composing := false, error(nil)
	for _, c := range chains {
		ours, err := r.passes(conn, c)
		if err != nil {
			r.hangUp()
			return err
		}
		for d := range r.policies {
			if name := string(ifname(d)); len(ours[name]) == 0 {
				changed = true
				for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
					conn.InsertRule(&nftables.Rule{
						Table: c.Table, Chain: c, UserData: r.comment(),
						Exprs: slices.Concat(deviceIs(key, expr.CmpOpEq, d), []expr.Any{&expr.Counter{}}, verdict(expr.VerdictAccept)),
					})
				}
			} else {
				delete(ours, name)
			}
		}
		for _, rules := range ours {
			for _, rule := range rules {
				changed = true
				composing = errors.Join(composing, conn.DelRule(rule))
			}
		}
	}
	if !changed {
		return nil
	}
	return r.flush(composing)
}

// openWay lets this root's packets pass chains of others that drop what they don't know. Where that fails, they may be
// dropped, which is said.
func (h *Host) openWay() {
	if err := h.passDroppers(); err != nil {
		h.log.Warn("another table drops forwarded packets, and can't be given a rule that lets those of containers pass", "error", err)
	}
}

func (h *Host) passDroppers() error {
	chains, err := h.rules.droppers()
	if err != nil || len(chains) == 0 {
		return err
	}
	return h.rules.pass(chains)
}
