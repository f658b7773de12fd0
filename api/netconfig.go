package api

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
	gnetwork "github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// networkRequest is what a client asks a network to be.
func networkRequest(req network.CreateRequest) (runner.NetworkRecord, error) {
	n := runner.NetworkRecord{
		Name: req.Name, Driver: req.Driver, Labels: req.Labels, Options: req.Options, Attachable: req.Attachable, Ingress: req.Ingress,
		Config: gnetwork.Config{
			IPv4: req.EnableIPv4 == nil || *req.EnableIPv4, IPv6: req.EnableIPv6 != nil && *req.EnableIPv6,
			Internal: req.Internal, ICC: true, Masquerade: true,
		},
	}
	if n.Driver == "" || n.Driver == "default" {
		n.Driver = gnetwork.DriverBridge
	}
	if strings.TrimSpace(n.Name) == "" {
		return n, fault.Invalid("invalid network name: name is empty")
	}
	switch {
	case req.Scope != "" && req.Scope != "local":
		return n, fault.Invalid("invalid scope %q: want local", req.Scope)
	case req.ConfigOnly || req.ConfigFrom != nil && req.ConfigFrom.Network != "":
		return n, fault.Invalid("config-only networks are not supported: give each network its own configuration")
	case n.Driver == "host" || n.Driver == "null":
		return n, fault.Forbidden("only one instance of %q network is allowed", n.Driver)
	case !slices.Contains([]string{gnetwork.DriverBridge, gnetwork.DriverMacvlan, gnetwork.DriverIPvlan}, n.Driver):
		return n, fault.NotFound("plugin %q not found", n.Driver)
	}
	if err := subnets(&n, req.IPAM); err != nil {
		return n, err
	}
	if n.Driver == gnetwork.DriverBridge {
		return n, bridgeOptions(&n.Config, req.Options)
	}
	return n, parentOptions(&n.Config, req.Options)
}

// subnets reads what a client says of a network's addresses.
func subnets(n *runner.NetworkRecord, in *network.IPAM) error {
	if in == nil {
		return nil
	}
	if in.Driver != "" && in.Driver != "default" {
		return fault.NotFound("could not find IPAM plugin %s: only the default one is supported", in.Driver)
	}
	n.IPAMDriver, n.IPAMOption = in.Driver, in.Options
	var wrong []string
	for _, c := range in.Config {
		if !c.Subnet.IsValid() {
			if c.Gateway.IsValid() || c.IPRange.IsValid() || len(c.AuxAddress) > 0 {
				wrong = append(wrong, "a gateway, an ip-range or an auxiliary address needs a subnet")
			}
			continue
		}
		if !c.Subnet.Addr().Is4() {
			n.Config.IPv6 = true
		}
		one := ipam.Config{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway, Aux: c.AuxAddress}
		if _, err := ipam.New(one); err != nil {
			wrong = append(wrong, err.Error())
		}
		n.Config.IPAM = append(n.Config.IPAM, one)
	}
	if len(wrong) > 0 {
		return fault.Invalid("invalid network config:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}

// bridgeOptions reads the options of a bridge network; others are refused by name.
func bridgeOptions(c *gnetwork.Config, options map[string]string) (err error) {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		v := options[k]
		switch k {
		case "com.docker.network.bridge.name":
			c.Device = v
		case "com.docker.network.driver.mtu":
			c.MTU, err = numberOf(k, v)
		case "com.docker.network.bridge.enable_icc":
			c.ICC, err = boolOf(k, v)
		case "com.docker.network.bridge.enable_ip_masquerade":
			c.Masquerade, err = boolOf(k, v)
		case "com.docker.network.bridge.host_binding_ipv4":
			if c.HostIP, err = netip.ParseAddr(v); err != nil || !c.HostIP.Is4() {
				err = fault.Invalid("invalid value for %s: %q is no IPv4 address", k, v)
			}
		case "com.docker.network.host_ipv4", "com.docker.network.host_ipv6":
			a, err := netip.ParseAddr(v)
			if err != nil || a.Is4() != strings.HasSuffix(k, "4") {
				return fault.Invalid("invalid value for %s: %q is no such address", k, v)
			}
			c.Source = append(c.Source, a)
		case "com.docker.network.container_iface_prefix":
			c.Prefix = v
		case "com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6":
			err = gatewayMode(c, k, v)
		case "com.docker.network.enable_ipv4":
			c.IPv4, err = boolOf(k, v)
		case "com.docker.network.enable_ipv6":
			c.IPv6, err = boolOf(k, v)
		default:
			if strings.HasPrefix(k, "com.docker.network.") { // others are for whoever has given them
				err = fault.Invalid("unsupported option of a bridge network: %s", k)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gatewayMode reads how the host stands between a network and others.
func gatewayMode(c *gnetwork.Config, key, mode string) error {
	switch mode {
	case "nat":
	case "nat-unprotected":
		c.Open = true
	case "isolated":
		if !c.Internal {
			return fault.Invalid("gateway mode 'isolated' can only be used for an internal network")
		}
		c.Isolated = true
	default:
		return fault.Invalid("unknown gateway mode %s (%s): want nat, nat-unprotected or isolated", mode, key)
	}
	return nil
}

// parentOptions reads the options of networks on a device of the host.
func parentOptions(c *gnetwork.Config, options map[string]string) (err error) {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		switch v := options[k]; k {
		case "parent":
			c.Parent = v
		case "macvlan_mode", "ipvlan_mode":
			c.Mode = v
		case "ipvlan_flag":
			c.Flag = v
		case "com.docker.network.driver.mtu":
			c.MTU, err = numberOf(k, v)
		case "com.docker.network.container_iface_prefix":
			c.Prefix = v
		default:
			err = fault.Invalid("unsupported option of a network on a device of the host: %s", k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func boolOf(key, v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fault.Invalid("failed to parse %s value: %s (%v)", key, v, err)
	}
	return b, nil
}

func numberOf(key, v string) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fault.Invalid("failed to parse %s value: %s (%v)", key, v, err)
	}
	return n, nil
}

// attachmentOf is what a client asks of a container's place in a network.
func attachmentOf(name string, ep *network.EndpointSettings) (runner.Attachment, error) {
	a := runner.Attachment{Name: name}
	if ep == nil {
		return a, nil
	}
	a.Aliases, a.Links, a.DriverOpts, a.GwPriority, a.MAC = ep.Aliases, ep.Links, ep.DriverOpts, ep.GwPriority,
		net.HardwareAddr(ep.MacAddress)
	if c := ep.IPAMConfig; c != nil {
		a.IP, a.IP6, a.LinkLocal = c.IPv4Address, c.IPv6Address, c.LinkLocalIPs
	}
	if len(a.MAC) != 0 && len(a.MAC) != 6 {
		return a, fault.Invalid("invalid MAC address: %s", a.MAC)
	}
	return a, nil
}

// endpointOf is an attachment as clients see it.
func endpointOf(rec runner.Record, a runner.Attachment) *network.EndpointSettings {
	out := &network.EndpointSettings{
		Aliases: a.Aliases, Links: a.Links, DriverOpts: a.DriverOpts, GwPriority: a.GwPriority, NetworkID: a.Network,
		EndpointID: a.EndpointID, MacAddress: network.HardwareAddr(a.MAC),
	}
	if a.IP.IsValid() || a.IP6.IsValid() || len(a.LinkLocal) > 0 {
		out.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: a.IP, IPv6Address: a.IP6, LinkLocalIPs: a.LinkLocal}
	}
	ep := a.Endpoint
	if ep == nil {
		return out
	}
	out.IPAddress, out.IPPrefixLen, out.Gateway, out.MacAddress = ep.IP, ep.PrefixLen, ep.Gateway, network.HardwareAddr(ep.MAC)
	out.GlobalIPv6Address, out.GlobalIPv6PrefixLen, out.IPv6Gateway = ep.IP6, ep.PrefixLen6, ep.Gateway6
	switch a.Name {
	case "bridge", "host", "none":
	default:
		out.DNSNames = rec.NamesIn(a)
	}
	return out
}
