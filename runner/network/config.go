package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// Drivers of the networks that can be made.
const (
	DriverBridge  = "bridge"
	DriverMacvlan = "macvlan"
	DriverIPvlan  = "ipvlan"
	DriverOverlay = "overlay"
)

// Config is what is to be known of one network. The zero values of what it has no words for are Docker's defaults.
type Config struct {
	ID     string // names it in state directories and devices
	Name   string // for messages
	Driver string
	Device string // of a bridge; empty: made up of the ID
	IPv4   bool
	IPv6   bool
	IPAM   []ipam.Config // empty: chosen when the network is made or, for the default one, needed
	MTU    int           // zero: that of the host's default route

	Internal   bool         // no way out, and none in
	ICC        bool         // containers reach each other
	Masquerade bool         // what leaves has the host's address; IPv6 as IPv4
	Source     []netip.Addr // what leaves has these addresses instead of that of its way, at most one of a family
	Open       bool         // neighbours reach what is not published (gateway mode nat-unprotected)
	Isolated   bool         // the host has no address on the bridge (gateway mode isolated)
	HostIP     netip.Addr   // to which ports are bound that name no address; zero: all
	Prefix     string       // of the interfaces' names in containers; empty: eth

	Parent string // the host's device that a macvlan or ipvlan lies on; NAME.N is made as a VLAN; empty: none
	Mode   string // of macvlan: bridge, private, vepa, passthru; of ipvlan: l2, l3, l3s
	Flag   string // of ipvlan: bridge, private, vepa

	Overlay *Overlay `json:",omitempty"` // of that driver
}

// check says what is wrong with a configuration.
func (c *Config) check() error {
	switch {
	case !validID.MatchString(c.ID):
		return fault.Invalid("network id %q: want letters, digits, _, . or -", c.ID)
	case c.Device != "" && !deviceName.MatchString(c.Device):
		return fault.Invalid("bridge name %q: want 1 to 15 letters, digits, . - or _, beginning with a letter", c.Device)
	case !validMTU(c.MTU):
		return fault.Invalid("invalid MTU %d: want 68 to 65535", c.MTU)
	case !c.IPv4 && !c.IPv6:
		return fault.Invalid("IPv4 or IPv6 must be enabled")
	}
	if err := c.checkDriver(); err != nil {
		return err
	}
	for i, a := range c.IPAM {
		if _, err := ipam.New(a); err != nil {
			return err
		}
		if is4 := a.Subnet.Addr().Is4(); is4 && !c.IPv4 || !is4 && !c.IPv6 {
			return fault.Invalid("subnet %s: IPv%s is not enabled for this network", a.Subnet, map[bool]string{true: "4", false: "6"}[is4])
		}
		for _, b := range c.IPAM[:i] {
			if a.Subnet.Overlaps(b.Subnet) {
				return fault.Forbidden("invalid pool request: Pool overlaps with other one on this address space")
			}
		}
	}
	return nil
}

func (c *Config) checkDriver() error {
	known := true
	switch c.Driver {
	case DriverBridge, DriverOverlay:
		return nil
	case DriverMacvlan:
		_, known = macvlanModes[c.Mode]
	case DriverIPvlan:
		_, known = ipvlanModes[c.Mode]
		if _, ok := ipvlanFlags[c.Flag]; !ok {
			return fault.Invalid("unknown ipvlan flag: %s", c.Flag)
		}
	default:
		return fault.Invalid("unknown driver %q", c.Driver)
	}
	if !known {
		return fault.Invalid("unknown %s mode: %s", c.Driver, c.Mode)
	}
	if c.Parent != "" && !deviceName.MatchString(c.Parent) {
		return fault.Invalid("invalid parent device %q", c.Parent)
	}
	return nil
}

// deviceOf names the bridge of a network.
func deviceOf(id string) string { return fmt.Sprintf("gb-%.12s", id) }

// prefix is how the names of interfaces in containers begin.
func (c *Config) prefix() string {
	if c.Prefix == "" {
		return "eth"
	}
	return strings.TrimSpace(c.Prefix)
}
