package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/gantry-build/gantry/internal/fault"
)

// Range is a block from which networks get subnets of one size, as "default-address-pools" of Docker's
// configuration has it.
type Range struct {
	Base netip.Prefix
	Size int // length of the subnets' prefixes
}

// Defaults are the blocks where nothing is configured: four subnets of a /16, then 256 of a /24.
var Defaults = []Range{
	{netip.MustParsePrefix("172.20.0.0/14"), 16},
	{netip.MustParsePrefix("10.88.0.0/16"), 24},
}

// CheckRanges says what is wrong with configured blocks.
func CheckRanges(all []Range) error {
	for i, r := range all {
		switch {
		case !r.Base.IsValid() || r.Base != r.Base.Masked():
			return fault.Invalid("address pool %s: want the first address of a prefix", r.Base)
		case r.Size < r.Base.Bits() || r.Size > r.Base.Addr().BitLen()-2:
			return fault.Invalid("address pool %s: subnets of size /%d do not fit", r.Base, r.Size)
		}
		for _, other := range all[:i] {
			if other.Base.Overlaps(r.Base) {
				return fault.Invalid("address pools %s and %s overlap", other.Base, r.Base)
			}
		}
	}
	return nil
}

// Choose returns the first subnet of the blocks that overlaps none of those that are used. The blocks are of one
// family. errdefs.ErrUnavailable when there is none.
func Choose(from []Range, used []netip.Prefix) (netip.Prefix, error) {
	var tried []string
	for _, r := range from {
		tried = append(tried, r.Base.String())
		for p := netip.PrefixFrom(r.Base.Addr(), r.Size); r.Base.Contains(p.Addr()); {
			by, taken := overlapping(p, used)
			if !taken {
				return p, nil
			}
			// Whatever lies in the way is passed in one step: IPv6 blocks have too many subnets to be tried.
			end := lastOf(p)
			if by.Bits() < p.Bits() {
				end = lastOf(by)
			}
			if p = netip.PrefixFrom(end.Next(), r.Size); !p.Addr().IsValid() {
				break
			}
		}
	}
	return netip.Prefix{}, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(
		"all predefined address pools have been fully subnetted: the networks and the host's routes cover %s; give the network a subnet",
		strings.Join(tried, " and ")))
}

func overlapping(p netip.Prefix, used []netip.Prefix) (netip.Prefix, bool) {
	for _, u := range used {
		if u.Overlaps(p) {
			return u, true
		}
	}
	return netip.Prefix{}, false
}

// UniqueLocal is the block of IPv6 subnets of a seed: one of RFC 4193's, which nobody else is likely to have.
func UniqueLocal(seed string) Range {
	sum := sha256.Sum256([]byte(seed))
	base := [16]byte{0xfd}
	copy(base[1:6], sum[:])
	return Range{netip.PrefixFrom(netip.AddrFrom16(base), 48), 64}
}
