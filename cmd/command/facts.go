package command

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"

	"github.com/containerd/containerd/v2/version"
	"github.com/google/uuid"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/gantry-build/gantry/api"
	"github.com/gantry-build/gantry/internal/payload"
	"github.com/gantry-build/gantry/internal/space"
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

// facts are what only the daemon as a whole knows.
func (d *daemon) facts() api.Facts {
	f := api.Facts{
		ID: d.id(), Containerd: strings.TrimSuffix(version.Version, "+unknown"), Runc: payload.Version("runc"),
		Init: payload.Version(initProgram), InitBinary: initProgram,
		CDIDirs: d.cfg.devices().Dirs, Devices: d.cfg.devices().Devices(),
		Labels: d.cfg.labels, Resources: d.cfg.resources,
	}
	for _, p := range d.cfg.pools {
		f.Pools, f.PoolSizes = append(f.Pools, p.Base), append(f.PoolSizes, p.Size)
	}
	for _, name := range slices.Sorted(maps.Keys(d.cfg.Registries)) {
		r := d.cfg.Registries[name]
		f.Registries = append(f.Registries, api.RegistryFacts{
			Name: name, Mirrors: r.Mirrors, Insecure: r.PlainHTTP != nil && *r.PlainHTTP || r.Insecure != nil && *r.Insecure,
		})
	}
	return f
}

// leastToBuild is what a build takes at least: a few records and directories.
const leastToBuild = 16 << 20

// roomToBuild refuses builds on a full disk before they begin.
func (d *daemon) roomToBuild(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if _, ok := req.(*controlapi.SolveRequest); ok {
		if err := space.Check(d.at.Root(), leastToBuild, "a build"); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
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
