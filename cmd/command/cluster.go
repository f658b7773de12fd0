package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/docker/cli/opts"
	"github.com/moby/swarmkit/v2/api"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	// The Docker CLI's commands for clusters, which register themselves.
	_ "github.com/docker/cli/cli/command/config"
	_ "github.com/docker/cli/cli/command/node"
	_ "github.com/docker/cli/cli/command/secret"
	_ "github.com/docker/cli/cli/command/service"
	_ "github.com/docker/cli/cli/command/stack"
	_ "github.com/docker/cli/cli/command/swarm"

	engine "github.com/gantry-build/gantry/api"
	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/exporter/transfer"
	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/registry/peer"
	"github.com/gantry-build/gantry/runner/cluster"
	"github.com/gantry-build/gantry/runner/cluster/placement"
	"github.com/gantry-build/gantry/runner/cluster/topology"
)

// openCluster takes up this machine's membership of a cluster, if it has one.
func (d *daemon) openCluster(trusted *trust.Store) error {
	d.cluster = cluster.New(cluster.Options{
		Root: d.at.clusterRoot(), State: filepath.Join(d.at.State(), "cluster"), Runner: d.runner, Network: d.network,
		Describe: d.describe, Pull: d.pullForTask, Log: d.log,
		Trusted: func() (map[string]topology.Registry, error) {
			own, err := trusted.Own()
			all := map[string]topology.Registry{}
			for host, e := range own {
				all[host] = topology.Registry(e)
			}
			return all, err
		},
		Trust: func(all map[string]topology.Registry) error {
			entries := map[string]trust.Entry{}
			for host, r := range all {
				entries[host] = trust.Entry(r)
			}
			return trusted.SetShared(entries)
		},
		Blobs: &peer.Server{Content: d.store.Client.ContentStore(), Find: d.mover.Layer, Log: d.log}, Build: d.build,
	})
	d.closers = append(d.closers, d.cluster.Close)
	return d.cluster.Resume()
}

// nativeVariable has a machine say that it runs other platforms natively than it does, for tests of mixed clusters.
const nativeVariable = "GANTRY_SAYS_NATIVE"

// describe is what the cluster's managers know of this machine.
func (d *daemon) describe() *api.NodeDescription {
	host, _ := os.Hostname()
	var mem unix.Sysinfo_t
	_ = unix.Sysinfo(&mem)
	engine := &api.EngineDescription{EngineVersion: thin.Version, Labels: opts.ConvertKVStringsToMap(d.cfg.labels)}
	for kind, names := range map[string][]string{
		"Network": {"bridge", "host", "ipvlan", "macvlan", "null", "overlay"}, "Volume": {"local"},
		"Log": {"journald", "json-file", "local", "none", "syslog"},
	} {
		for _, n := range names {
			engine.Plugins = append(engine.Plugins, api.PluginDescription{Type: kind, Name: n})
		}
	}
	var native, emulated []ocispec.Platform
	for _, p := range d.qemu.Platforms() {
		switch way, err := d.qemu.Way(p); {
		case err != nil:
		case way.Mode == qemu.Emulated:
			emulated = append(emulated, p)
		default:
			native = append(native, p)
		}
	}
	if says := os.Getenv(nativeVariable); says != "" {
		if p, err := platforms.ParseAll(strings.Split(says, ",")); err == nil {
			native = p
		}
	}
	placement.Describe(engine, native, emulated)
	slices.SortStableFunc(engine.Plugins, comparePlugins)
	return &api.NodeDescription{
		Hostname: host, Engine: engine, Platform: &api.Platform{OS: "linux", Architecture: machine()},
		Resources: &api.Resources{
			NanoCPUs: int64(runtime.NumCPU()) * 1e9, MemoryBytes: int64(mem.Totalram) * int64(max(mem.Unit, 1)),
			Generic: d.cfg.resources,
		},
	}
}

func comparePlugins(a, b api.PluginDescription) int {
	switch {
	case a.Type+a.Name < b.Type+b.Name:
		return -1
	case a.Type+a.Name > b.Type+b.Name:
		return 1
	}
	return 0
}

// machine is the kernel's architecture, as constraints on node.platform.arch have it.
func machine() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(name.Machine[:])
}

// pullForTask brings a task's image here. One that is named by its digest and is here needs no registry.
func (d *daemon) pullForTask(ctx context.Context, image, auth string, p *ocispec.Platform) error {
	name, err := fullName(image)
	if err != nil {
		return err
	}
	if strings.Contains(name, "@") {
		if _, err := d.store.Open(cache.WithNamespace(ctx), name, p); err == nil {
			return nil
		}
	}
	_, _, err = d.mover.Pull(ctx, name, p, engine.Credentials(auth), nil)
	return err
}

// askTimeout is how long a registry may take to say what an image is: the user waits for the service.
const askTimeout = 5 * time.Second

// imagePlatforms are those for which an image is.
func (d *daemon) imagePlatforms(ctx context.Context, image, auth string) ([]ocispec.Platform, error) {
	name, err := fullName(image)
	if err != nil {
		return nil, err
	}
	_, all, err := d.findImage(ctx, name, engine.Credentials(auth))
	return all, err
}

// findImage tells what an image's name means: what its registry has. On a node of a cluster it is what is here when that was made
// here and is in no registry that gantry knows of, when the registry can't be asked, or when it is named by its digest: other nodes
// get it from this one.
func (d *daemon) findImage(ctx context.Context, name string, c transfer.Credentials) (ocispec.Descriptor, []ocispec.Platform, error) {
	if d.cluster.Status().State == cluster.Inactive {
		return d.mover.Inspect(ctx, name, c)
	}
	here, err := d.store.Lookup(ctx, name)
	found := err == nil
	own := found && (here.Labels[cache.LabelRegistry] == "" || strings.Contains(name, "@"))
	if !own {
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		desc, all, err := d.mover.Inspect(asking, name, c)
		if err == nil || !found {
			return desc, all, err
		}
		d.log.Info("an image's registry can't be asked, and what is here is taken", "image", name, "error", err)
	}
	all, err := d.mover.Platforms(ctx, name)
	return here.Target, all, err
}

// extendService adds to the Docker CLI's service commands what is gantry's own.
func extendService(cmd *cobra.Command) {
	for verb, label := range map[string]string{"create": "container-label", "update": "container-label-add"} {
		c := child(cmd, verb)
		emulate := c.Flags().Bool("emulate", false, "Let nodes run it by an emulator where none runs it natively")
		before := c.PreRunE
		c.PreRunE = func(cmd *cobra.Command, args []string) (err error) {
			if cmd.Flags().Changed("emulate") {
				err = cmd.Flags().Set(label, fmt.Sprintf("%s=%t", placement.EmulateLabel, *emulate))
			}
			if before != nil {
				err = errors.Join(err, before(cmd, args))
			}
			return err
		}
	}
}
