package network

import (
	"fmt"

	"github.com/google/nftables"
)

// warnOfDroppers says once per written table when another table drops forwarded packets by policy. In nftables an
// accept of ours does not overrule it, and containers then reach nobody; only the host's owner can allow them.
func (b *Bridge) warnOfDroppers() {
	chains, err := b.rules.hostChains()
	if err != nil {
		b.log.Debug("could not look for tables that drop forwarded packets", "error", err)
	}
	for _, c := range chains {
		if b.drops(c) && !b.allowed(c) {
			b.log.Warn("another table drops forwarded packets: containers may be unreachable",
				"table", c.Table.Name, "chain", c.Name, "next", b.allowance(c))
		}
	}
}

// hostChains lists the chains of all tables that see IPv4 packets.
func (r *ruleset) hostChains() ([]*nftables.Chain, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn, err := r.session()
	if err != nil {
		return nil, err
	}
	ip, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err == nil {
		var inet []*nftables.Chain
		inet, err = conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
		ip = append(ip, inet...)
	}
	if err != nil {
		r.hangUp()
	}
	return ip, err
}

func (b *Bridge) drops(c *nftables.Chain) bool {
	return c.Table.Name != b.opts.Table && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

// allowance is the command that lets this network's packets pass a chain.
func (b *Bridge) allowance(c *nftables.Chain) string {
	family := "ip"
	if c.Table.Family == nftables.TableFamilyINet {
		family = "inet"
	}
	rule := func(direction string) string {
		return fmt.Sprintf("nft insert rule %s %s %s %s %s accept", family, c.Table.Name, c.Name, direction, b.opts.Name)
	}
	return rule("iifname") + "; " + rule("oifname")
}
