package runner

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/dns"
	"github.com/gantry-build/gantry/runner/spec"
)

// writeFiles writes resolv.conf, hostname and a first hosts. They are bind-mounted one by one, so
// they are written in place: a renamed file would not be seen inside. A container in another's network has that one's.
func (m *Manager) writeFiles(c *container, rec Record) (spec.Files, error) {
	if host, err := m.netOwner(rec); err != nil {
		return spec.Files{}, err
	} else if host != nil {
		c = host
		return filesIn(c.dir), nil
	}
	f := filesIn(c.dir)
	err := os.WriteFile(f.Hostname, []byte(rec.Config.Hostname+"\n"), 0o644)
	if err == nil {
		err = m.writeResolv(c, rec)
	}
	if err != nil {
		return f, fmt.Errorf("container %s: %w", c.id, err)
	}
	return f, m.writeHosts(c, rec)
}

func filesIn(dir string) spec.Files {
	return spec.Files{
		ResolvConf: filepath.Join(dir, "resolv.conf"), Hostname: filepath.Join(dir, "hostname"), Hosts: filepath.Join(dir, "hosts"),
	}
}

// resolver is what a container's owner asks for in place of the host's name servers.
func resolver(h spec.HostConfig) (network.Resolver, error) {
	r := network.Resolver{Search: h.DNSSearch, Options: h.DNSOptions}
	for _, s := range h.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return r, fault.Invalid("invalid DNS server address %q", s)
		}
		r.Servers = append(r.Servers, a)
	}
	return r, nil
}

// writeResolv writes resolv.conf, unless it is as it shall be.
func (m *Manager) writeResolv(c *container, rec Record) error {
	conf, err := resolvConf(rec.HostConfig, m.named(rec))
	if err != nil {
		return err
	}
	return writeInPlace(filesIn(c.dir).ResolvConf, conf)
}

// resolvConf names the host's servers, or the container's own one.
func resolvConf(h spec.HostConfig, own bool) ([]byte, error) {
	r, err := resolver(h)
	if err != nil {
		return nil, err
	}
	if h.NetworkMode == "host" && len(r.Servers)+len(r.Search)+len(r.Options) == 0 {
		conf, err := os.ReadFile("/etc/resolv.conf") // its loopback servers can be reached from there
		if os.IsNotExist(err) {
			err = nil
		}
		return conf, err
	}
	if own {
		r.Servers = []netip.Addr{netip.MustParseAddr(dns.Address)}
	}
	host, err := network.HostResolvConf()
	conf := r.Conf(host)
	if own && !bytes.Contains(conf, []byte("ndots:")) {
		conf = append(conf, "options ndots:0\n"...) // names of containers have no dots
	}
	return conf, err
}

// writeInPlace writes a file that containers have mounted, if it is not so already.
func writeInPlace(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(path, data, 0o644)
}

// writeHosts writes the hosts file: with the addresses of the container once it has them.
func (m *Manager) writeHosts(c *container, rec Record) error {
	gateway := netip.IPv4Unspecified() // the real one is known after the start
	if rec.State.Running && slices.ContainsFunc(rec.HostConfig.ExtraHosts, func(e string) bool {
		return strings.HasSuffix(e, ":host-gateway")
	}) || rec.HostConfig.NetworkMode == "host" {
		gateway = m.gatewayOf(m.ctx, rec)
	}
	extra, err := network.ExtraHosts(rec.HostConfig.ExtraHosts, gateway)
	if err != nil {
		return fault.Invalid("%v", err)
	}
	links, err := m.linked(rec)
	if err != nil {
		return err
	}
	extra = append(extra, links...)
	name := rec.Config.Hostname
	if rec.Config.Domainname != "" {
		name += "." + rec.Config.Domainname
	}
	data := network.Hosts(name, rec.addresses(), extra)
	if rec.HostConfig.NetworkMode == "host" {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		data = hostHosts(own, extra)
	}
	if err := writeInPlace(filesIn(c.dir).Hosts, data); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// addresses are a container's on all its networks.
func (r Record) addresses() (all []netip.Addr) {
	for _, a := range r.Attachments {
		if a.Endpoint == nil {
			continue
		}
		for _, ip := range []netip.Addr{a.Endpoint.IP, a.Endpoint.IP6} {
			if ip.IsValid() {
				all = append(all, ip)
			}
		}
	}
	return all
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

// netOwner is the container whose network another one shares; nil where it shares none.
func (m *Manager) netOwner(rec Record) (*container, error) {
	return m.owner(rec.HostConfig.NetworkMode, "network")
}

// owner is the container that a mode container:NAME is about; nil for other modes. It must run.
func (m *Manager) owner(mode, what string) (*container, error) {
	ref, shares := strings.CutPrefix(mode, "container:")
	if !shares {
		return nil, nil
	}
	c, err := m.find(ref)
	if err != nil {
		return nil, err
	}
	switch {
	case c.current() != nil:
		return c, nil
	case what == "PID":
		return nil, fmt.Errorf("failed to join PID namespace: container %s is not running", c.id)
	}
	return nil, fault.Conflict("cannot join %s of a non running container: %s", what, c.id)
}
