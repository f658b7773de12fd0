package network

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/gantry-build/gantry/internal/fault"
)

// A macvlan or ipvlan network lies on a device of the host. Where its owner names none, it lies on a dummy device of
// its own; where the name is that of a VLAN that does not exist, DEVICE.NUMBER, the VLAN is made. Devices that were made
// for a network go with it.

// ensureParent returns the device on which the containers' interfaces are to lie.
func (n *Network) ensureParent() (device, error) {
	name := n.cfg.Device
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		link, err = n.makeParent(name)
	}
	if err != nil {
		return device{}, fmt.Errorf("device %s of network %s: %w", name, n.cfg.Name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return device{}, fmt.Errorf("starting device %s: %w", name, err)
		}
	}
	mtu := link.Attrs().MTU
	if n.cfg.MTU != 0 {
		mtu = n.cfg.MTU
	}
	return device{name, link.Attrs().Index, mtu}, nil
}

func (n *Network) makeParent(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	var link netlink.Link = &netlink.Dummy{LinkAttrs: attrs}
	if n.cfg.Parent != "" {
		base, tag, ok := strings.Cut(name, ".")
		id, err := strconv.ParseUint(tag, 10, 12)
		if !ok || err != nil || id == 0 || id == 4095 {
			return nil, fault.Invalid("there is no such device, and it is no VLAN's name: want DEVICE or DEVICE.NUMBER")
		}
		below, err := netlink.LinkByName(base)
		if err != nil {
			return nil, fault.Invalid("there is no device %s for a VLAN", base)
		}
		attrs.ParentIndex = below.Attrs().Index
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: int(id)}
	}
	if err := netlink.LinkAdd(link); err != nil {
		return nil, needs(map[string]string{"dummy": "dummy", "vlan": "8021q"}[link.Type()], err)
	}
	if err := netlink.LinkSetAlias(link, n.alias()); err != nil {
		return nil, errors.Join(err, netlink.LinkDel(link))
	}
	return netlink.LinkByName(name)
}

// removeParent deletes the device if it was made for this network.
func (n *Network) removeParent() error {
	link, err := netlink.LinkByName(n.cfg.Device)
	if isNotFound(err) {
		return nil
	}
	if err == nil && link.Attrs().Alias == n.alias() {
		err = netlink.LinkDel(link)
	}
	return err
}

var macvlanModes = map[string]netlink.MacvlanMode{
	"": netlink.MACVLAN_MODE_BRIDGE, "bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
	"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
}

var ipvlanModes = map[string]netlink.IPVlanMode{
	"": netlink.IPVLAN_MODE_L2, "l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S,
}

var ipvlanFlags = map[string]netlink.IPVlanFlag{
	"": netlink.IPVLAN_FLAG_BRIDGE, "bridge": netlink.IPVLAN_FLAG_BRIDGE, "private": netlink.IPVLAN_FLAG_PRIVATE,
	"vepa": netlink.IPVLAN_FLAG_VEPA,
}

// makeChild makes an interface on the parent in the container.
func (n *Network) makeChild(w wire, inside *interior) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.ParentIndex, attrs.Namespace = w.name, w.dev.mtu, w.dev.index, netlink.NsFd(int(inside.ns.Fd()))
	var link netlink.Link
	if n.cfg.Driver == DriverMacvlan {
		attrs.HardwareAddr = w.mac
		link = &netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanModes[n.cfg.Mode]}
	} else {
		link = &netlink.IPVlan{LinkAttrs: attrs, Mode: ipvlanModes[n.cfg.Mode], Flag: ipvlanFlags[n.cfg.Flag]}
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("making an interface on %s: %w", w.dev.name, needs(n.cfg.Driver, err))
	}
	return nil
}
