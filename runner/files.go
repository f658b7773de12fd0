package runner

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/spec"
)

// writeFiles writes resolv.conf, hostname and a first hosts. They are bind-mounted one by one, so
// they are written in place: a renamed file would not be seen inside.
func (m *Manager) writeFiles(c *container, rec Record) (spec.Files, error) {
	f := spec.Files{
		ResolvConf: filepath.Join(c.dir, "resolv.conf"),
		Hostname:   filepath.Join(c.dir, "hostname"),
		Hosts:      filepath.Join(c.dir, "hosts"),
	}
	conf, err := resolvConf(rec.HostConfig)
	if err == nil {
		err = os.WriteFile(f.ResolvConf, conf, 0o644)
	}
	if err == nil {
		err = os.WriteFile(f.Hostname, []byte(rec.Config.Hostname+"\n"), 0o644)
	}
	if err != nil {
		return f, fmt.Errorf("container %s: %w", c.id, err)
	}
	gateway := m.o.Network.Gateway()
	if rec.HostConfig.NetworkMode == "bridge" { // the real one is known after connect
		gateway = netip.IPv4Unspecified()
	}
	return f, m.writeHosts(c, rec, netip.Addr{}, gateway)
}

func resolvConf(h spec.HostConfig) ([]byte, error) {
	r := network.Resolver{Search: h.DNSSearch, Options: h.DNSOptions}
	for _, s := range h.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fault.Invalid("invalid DNS server address %q", s)
		}
		r.Servers = append(r.Servers, a)
	}
	if h.NetworkMode == "host" && len(r.Servers)+len(r.Search)+len(r.Options) == 0 {
		conf, err := os.ReadFile("/etc/resolv.conf") // its loopback servers can be reached from there
		if os.IsNotExist(err) {
			err = nil
		}
		return conf, err
	}
	host, err := network.HostResolvConf()
	return r.Conf(host), err
}

func (m *Manager) writeHosts(c *container, rec Record, ip, gateway netip.Addr) error {
	extra, err := network.ExtraHosts(rec.HostConfig.ExtraHosts, gateway)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	name := rec.Config.Hostname
	if rec.Config.Domainname != "" {
		name += "." + rec.Config.Domainname
	}
	data := network.Hosts(name, ip, extra)
	if rec.HostConfig.NetworkMode == "host" {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		data = hostHosts(own, extra)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "hosts"), data, 0o644); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// hostHosts is the host's own file and the entries that the user adds.
func hostHosts(own []byte, extra []string) []byte {
	if len(own) > 0 && own[len(own)-1] != '\n' {
		own = append(own, '\n')
	}
	for _, e := range extra {
		name, addr, _ := strings.Cut(e, ":")
		own = fmt.Appendf(own, "%s\t%s\n", addr, name)
	}
	return own
}
