package command

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/version"
	"github.com/google/uuid"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/gantry-build/gantry/internal/payload"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/runner/lookup"
)

// devices are those that the configuration's [cdi] section describes.
func (s settings) devices() lookup.CDI {
	switch c := s.CDI; {
	case c.Disabled != nil && *c.Disabled:
		return lookup.CDI{}
	case len(c.SpecDirs) > 0:
		return lookup.CDI{Dirs: c.SpecDirs}
	}
	return lookup.CDI{Dirs: cdi.DefaultSpecDirs}
}

// facts adds to /info what only the daemon as a whole knows: what it carries, and how it is configured.
func (d *daemon) facts(info *system.Info) {
	info.ID = d.id()
	info.ContainerdCommit.ID = strings.TrimSuffix(version.Version, "+unknown")
	info.RuncCommit.ID, info.InitCommit.ID, info.InitBinary = payload.Version("runc"), payload.Version(initProgram), initProgram
	info.CDISpecDirs = append([]string{}, d.cfg.devices().Dirs...)
	for _, name := range d.cfg.devices().Devices() {
		info.DiscoveredDevices = append(info.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: name})
	}
	for _, p := range d.cfg.pools {
		info.DefaultAddressPools = append(info.DefaultAddressPools, system.NetworkAddressPool{Base: p.Base, Size: p.Size})
	}
	info.RegistryConfig = d.registries()
}

// id is the engine's, made once for a data root.
func (d *daemon) id() string {
	path := filepath.Join(d.at.Root(), "engine-id")
	if data, err := os.ReadFile(path); err == nil && len(data) > 0 {
		return strings.TrimSpace(string(data))
	}
	id := uuid.NewString()
	if err := state.Write(path, []byte(id+"\n"), 0o600); err != nil {
		d.log.Warn("the engine's ID could not be kept", "error", err)
	}
	return id
}

// registries is the configuration of registries in Docker's terms. Loopback may be plain HTTP.
func (d *daemon) registries() *registry.ServiceConfig {
	c := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		IndexConfigs:          map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true}},
	}
	for _, name := range slices.Sorted(maps.Keys(d.cfg.Registries)) {
		r := d.cfg.Registries[name]
		insecure := r.PlainHTTP != nil && *r.PlainHTTP || r.Insecure != nil && *r.Insecure
		c.IndexConfigs[name] = &registry.IndexInfo{
			Name: name, Mirrors: append([]string{}, r.Mirrors...), Secure: !insecure, Official: name == "docker.io",
		}
		if name == "docker.io" {
			c.Mirrors = r.Mirrors
		}
	}
	return c
}
