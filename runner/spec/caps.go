package spec

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/internal/fault"
)

// AllCapabilities are all that the kernel may have, as CAP_CHOWN.
func AllCapabilities() []string {
	var all []string
	for _, c := range capability.ListKnown() {
		all = append(all, "CAP_"+strings.ToUpper(c.String()))
	}
	return all
}

// defaultCapabilities is Docker's set (moby daemon/pkg/oci/caps/defaults.go).
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
		"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities is the set left by --privileged, --cap-add and --cap-drop, of those in all.
func capabilities(h HostConfig, all []string) ([]string, error) {
	if all == nil {
		all = AllCapabilities()
	}
	add, err := capNames("CapAdd", h.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, err := capNames("CapDrop", h.CapDrop)
	if err != nil {
		return nil, err
	}
	base := defaultCapabilities()
	switch {
	case h.Privileged:
		return all, nil
	case slices.Contains(add, "ALL"):
		base = all
	case slices.Contains(drop, "ALL"):
		base = nil
	}
	var set []string
	for _, c := range all {
		if slices.Contains(add, c) || slices.Contains(base, c) && !slices.Contains(drop, c) {
			set = append(set, c)
		}
	}
	return set, nil
}

func capNames(option string, names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		c := strings.ToUpper(n)
		if c != "ALL" && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if c == "CAP_ALL" {
			c = "ALL"
		}
		if c != "ALL" && !slices.Contains(AllCapabilities(), c) {
			return nil, fault.Invalid("invalid %s: unknown capability: %q", option, n)
		}
		out = append(out, c)
	}
	return out, nil
}

// capabilitySets gives a user other than root only the bounding set, so that it gets capabilities
// by setuid programs and file capabilities alone, as in Docker.
func capabilitySets(caps []string, uid uint32) *specs.LinuxCapabilities {
	sets := &specs.LinuxCapabilities{Bounding: caps}
	if uid == 0 {
		sets.Effective, sets.Permitted = caps, caps
	}
	return sets
}
