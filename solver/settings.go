package solver

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	bkfrontend "github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/moby/buildkit/worker"
	"golang.org/x/sync/semaphore"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	dockerfile "github.com/gantry-build/gantry/frontend"
	"github.com/gantry-build/gantry/solver/farm"
)

// entitled are the entitlements that clients may use: those of the configuration's insecure-entitlements,
// or else the ones that dockerd gives when its configuration is silent (moby/v2, getEntitlements).
// Devices are allowed wherever there may be any, as by buildkitd.
func entitled(c *config.Config) []string {
	all := c.Entitlements
	if all == nil {
		all = []string{string(entitlements.EntitlementNetworkHost)}
	}
	device := string(entitlements.EntitlementDevice)
	if (c.CDI.Disabled == nil || !*c.CDI.Disabled) && !slices.Contains(all, device) {
		all = append(slices.Clip(all), device)
	}
	return all
}

// provenanceEnv is what the provenance of every build says besides: the JSON objects in a directory's
// files, later ones over earlier ones (buildkit, cmd/buildkitd/util.go, loadProvenanceEnv).
func provenanceEnv(dir string) (map[string]any, error) {
	if dir == "" {
		dir = "/etc/gantry/provenance.d"
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var env map[string]any
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(text, &env)
		}
		if err != nil {
			return nil, fmt.Errorf("provenanceEnvDir: %s: %w", f, err)
		}
	}
	return env, nil
}

// frontends are those that the configuration's [frontend] leaves on: the one inside, and those in images.
func frontends(c *config.Config, workers worker.Infos, f *farm.Farm) (map[string]bkfrontend.Frontend, error) {
	all := map[string]bkfrontend.Frontend{}
	on := func(e *bool) bool { return e == nil || *e }
	if on(c.Frontends.Dockerfile.Enabled) {
		all["dockerfile.v0"] = forwarder.NewGatewayForwarder(workers, dockerfile.Dockerfile)
	}
	if on(c.Frontends.Gateway.Enabled) {
		gw, err := gateway.NewGatewayFrontend(workers, c.Frontends.Gateway.AllowedRepositories)
		if err != nil {
			return nil, fmt.Errorf("configuration: frontend.gateway.v0.allowedRepositories: %w", err)
		}
		all["gateway.v0"] = gw
	}
	if f != nil {
		for name, front := range all {
			all[name] = f.Frontend(front)
		}
	}
	return all, nil
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

// gcPolicy keeps the build cache below a share of the disk; no policy would keep everything.
// It is BuildKit's own rule (cmd/buildkitd/main.go, getGCPolicy), which is not exported.
func gcPolicy(o Options) []client.PruneInfo {
	cfg := o.Config.Workers.OCI.GCConfig
	if cfg.GC != nil && !*cfg.GC {
		return nil
	}
	stat, _ := disk.GetDiskStat(o.Root)
	if len(cfg.GCPolicy) == 0 {
		cfg.GCPolicy = config.DefaultGCPolicy(cfg, stat)
	}
	var rules []client.PruneInfo
	for _, r := range cfg.GCPolicy {
		rules = append(rules, client.PruneInfo{
			Filter:        r.Filters,
			All:           r.All,
			KeepDuration:  r.KeepDuration.Duration,
			ReservedSpace: r.ReservedSpace.AsBytes(stat),
			MaxUsedSpace:  r.MaxUsedSpace.AsBytes(stat),
			MinFreeSpace:  r.MinFreeSpace.AsBytes(stat),
		})
	}
	return rules
}

func parallelism(c *config.Config) *semaphore.Weighted {
	if n := c.Workers.OCI.MaxParallelism; n > 0 {
		return semaphore.NewWeighted(int64(n))
	}
	return nil
}
