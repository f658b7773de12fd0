package solver

import (
	"fmt"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/util/entitlements"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// entitled are the entitlements that clients may use: those of the configuration's insecure-entitlements,
// or else the ones that dockerd gives when its configuration is silent (moby/v2, getEntitlements).
func entitled(c *config.Config) []string {
	if c.Entitlements != nil {
		return c.Entitlements
	}
	return []string{string(entitlements.EntitlementNetworkHost), string(entitlements.EntitlementDevice)}
}

// stepDNS is what the configuration's [dns] puts into the steps' resolv.conf.
func stepDNS(c *config.DNSConfig) *oci.DNSConfig {
	if c == nil {
		return nil
	}
	return &oci.DNSConfig{Nameservers: c.Nameservers, Options: c.Options, SearchDomains: c.SearchDomains}
}

// stepDevices knows the devices that RUN --device can have: those of the Container Device Interface's
// specifications in the configuration's [cdi] specDirs, or else in the interface's own directories. A
// specification that can't be read hides no other; its devices are unknown to the step that asks for one.
func stepDevices(c config.CDIConfig) (*cdidevices.Manager, error) {
	if c.Disabled != nil && *c.Disabled {
		return nil, nil
	}
	dirs := c.SpecDirs
	if len(dirs) == 0 {
		dirs = cdi.DefaultSpecDirs
	}
	known, err := cdi.NewCache(cdi.WithSpecDirs(dirs...))
	if err != nil {
		return nil, fmt.Errorf("device specifications in %v: %w", dirs, err)
	}
	return cdidevices.NewManager(known, c.AutoAllowed), nil
}
