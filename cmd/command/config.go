package command

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	swarmapi "github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/api/genericresource"
	"github.com/pelletier/go-toml/v2"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/runner/network/ipam"
)

// honoured has the keys of buildkitd.toml (docs/buildkitd.toml.md there, v0.34.2) that gantry heeds, and
// those whose only sensible value it has anyway. Decoded strictly, it tells where every other key stands.
type honoured struct {
	Emulation any        `toml:"emulation"` // gantry's own
	Pools     []struct { // dockerd's
		Base any `toml:"base"`
		Size any `toml:"size"`
	} `toml:"default-address-pools"`
	Labels           any `toml:"labels"`                 // dockerd's
	Resources        any `toml:"node-generic-resources"` // dockerd's
	Metrics          any `toml:"metrics-addr"`           // dockerd's
	Debug            any `toml:"debug"`
	Trace            any `toml:"trace"`
	Entitlements     any `toml:"insecure-entitlements"`
	ProxyNetwork     any `toml:"proxyNetwork"`
	ProvenanceEnvDir any `toml:"provenanceEnvDir"`
	Registries       any `toml:"registry"`
	DNS              any `toml:"dns"`
	History          any `toml:"history"`
	CDI              any `toml:"cdi"`
	Frontends        any `toml:"frontend"`
	Log              struct {
		Format any `toml:"format"`
		Level  any `toml:"level"`
	} `toml:"log"`
	Cache struct {
		GHA any `toml:"gha"`
	} `toml:"cache"`
	Workers struct {
		Containerd struct {
			Enabled any `toml:"enabled"`
		} `toml:"containerd"`
		OCI struct {
			Enabled             any `toml:"enabled"`
			Labels              any `toml:"labels"`
			Snapshotter         any `toml:"snapshotter"`
			NoProcessSandbox    any `toml:"noProcessSandbox"`
			DefaultCgroupParent any `toml:"defaultCgroupParent"`
			ApparmorProfile     any `toml:"apparmor-profile"`
			SELinux             any `toml:"selinux"`
			MaxParallelism      any `toml:"max-parallelism"`
			NetworkMode         any `toml:"networkMode"`
			GC                  any `toml:"gc"`
			KeepStorage         any `toml:"gckeepstorage"`
			ReservedSpace       any `toml:"reservedSpace"`
			MaxUsedSpace        any `toml:"maxUsedSpace"`
			MinFreeSpace        any `toml:"minFreeSpace"`
			GCPolicy            any `toml:"gcpolicy"`
		} `toml:"oci"`
	} `toml:"worker"`
}

// instead says what to do in place of keys that BuildKit has and gantry has not.
var instead = map[string]string{
	"root":                            "say --root",
	"grpc":                            "the daemon has one socket; say --socket where",
	"otel":                            "traces are in `gantry history trace`",
	"worker.containerd":               "containerd is inside; the settings of steps belong below [worker.oci]",
	"worker.oci.platforms":            "`gantry emulators ls` shows what this machine runs",
	"worker.oci.binary":               "runc is inside",
	"worker.oci.cniConfigPath":        "steps need no CNI plugins",
	"worker.oci.cniBinaryPath":        "steps need no CNI plugins",
	"worker.oci.cniPoolSize":          "steps need no CNI plugins",
	"worker.oci.bridgeName":           "steps are on the containers' bridge",
	"worker.oci.bridgeSubnet":         "steps are on the containers' bridge",
	"worker.oci.rootless":             "the daemon needs root",
	"worker.oci.stargzSnapshotter":    "the store is overlayfs",
	"worker.oci.proxySnapshotterPath": "the store is overlayfs",
	"system":                          "it has no counterpart here",
	"compaction":                      "it has no counterpart here",
	"worker.oci.userRemapUnsupported": "it has no counterpart here",
}

// settings are what the configuration file says.
type settings struct {
	*config.Config
	emulation qemu.Policy
	pools     []ipam.Range // of networks
	labels    []string     // of this machine, each KEY=VALUE
	resources []*swarmapi.GenericResource
	metrics   string // address at which they are served; "" is nowhere
}

// loadConfig reads the configuration file: the one that was named, or the one in its usual place if there
// is one. Its errors say in which line a setting stands that has no effect here.
func loadConfig(at *place) (settings, error) {
	path := at.Config()
	if path == "" {
		path = thin.DefaultConfig
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && at.Config() == "" {
		return settings{Config: &config.Config{}, emulation: qemu.Auto}, nil
	}
	if err != nil {
		return settings{}, fmt.Errorf("configuration file: %w", err)
	}
	cfg, err := parseConfig(text)
	if err != nil {
		return settings{}, fmt.Errorf("configuration file %s%w", path, err)
	}
	return cfg, nil
}

// located is an error that begins with the line that it is about.
func located(line int, format string, args ...any) error {
	return fmt.Errorf(":%d: "+format, append([]any{line}, args...)...)
}

func parseConfig(text []byte) (s settings, err error) {
	strict := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	err = strict.Decode(&honoured{})
	var unknown *toml.StrictMissingError
	var broken *toml.DecodeError
	switch {
	case errors.As(err, &unknown) && len(unknown.Errors) > 0:
		first := unknown.Errors[0]
		line, _ := first.Position()
		return s, refuseKey(line, first.Key())
	case errors.As(err, &broken):
		line, _ := broken.Position()
		return s, located(line, "%s", broken.Error())
	case err != nil:
		return s, fmt.Errorf(": %w", err)
	}
	cfg, err := config.Load(bytes.NewReader(text))
	if errors.As(err, &broken) {
		line, _ := broken.Position()
		return s, located(line, "%s: %s", strings.Join(broken.Key(), "."), strings.TrimPrefix(broken.Error(), "toml: "))
	}
	if err != nil {
		return s, fmt.Errorf(": %w", err)
	}
	s.Config = &cfg
	if err := s.own(text); err != nil {
		return s, fmt.Errorf(": %w", err)
	}
	return s, checkConfig(&cfg)
}

// own reads what is not BuildKit's.
func (s *settings) own(text []byte) (err error) {
	var own struct {
		Emulation string `toml:"emulation"`
		Pools     []struct {
			Base string `toml:"base"`
			Size int    `toml:"size"`
		} `toml:"default-address-pools"`
		Labels    []string `toml:"labels"`
		Resources []string `toml:"node-generic-resources"`
		Metrics   string   `toml:"metrics-addr"`
	}
	if err := toml.Unmarshal(text, &own); err != nil {
		return err
	}
	if s.emulation, err = qemu.ParsePolicy(own.Emulation); err != nil {
		return err
	}
	if err := s.describe(own.Labels, own.Resources, own.Metrics); err != nil {
		return err
	}
	for _, p := range own.Pools {
		base, err := netip.ParsePrefix(p.Base)
		if err != nil {
			return fmt.Errorf("default-address-pools: base = %q: want a prefix such as 10.10.0.0/16", p.Base)
		}
		s.pools = append(s.pools, ipam.Range{Base: base, Size: p.Size})
	}
	if err := ipam.CheckRanges(s.pools); err != nil {
		return fmt.Errorf("default-address-pools: %w", err)
	}
	return nil
}

// describe adds what is said of this machine: to clusters, and of where it tells how it is.
func (s *settings) describe(labels, resources []string, metrics string) (err error) {
	for _, l := range labels {
		if key, _, ok := strings.Cut(l, "="); !ok || key == "" {
			return fmt.Errorf("labels: %q: want KEY=VALUE", l)
		}
		s.labels = append(s.labels, l)
	}
	if len(resources) > 0 {
		if s.resources, err = genericresource.Parse(resources); err != nil {
			return fmt.Errorf("node-generic-resources: %w", err)
		}
	}
	if metrics != "" {
		if _, _, err := net.SplitHostPort(metrics); err != nil {
			return fmt.Errorf("metrics-addr = %q: want HOST:PORT", metrics)
		}
		s.metrics = metrics
	}
	return nil
}

func refuseKey(line int, key []string) error {
	name := strings.Join(key, ".")
	for n := len(key); n > 0; n-- {
		if what, ok := instead[strings.Join(key[:n], ".")]; ok {
			return located(line, "%s has no effect here: %s", name, what)
		}
	}
	return located(line, "%s is unknown", name)
}

// checkConfig refuses values that only a BuildKit with other parts has.
func checkConfig(c *config.Config) error {
	if e := c.Workers.OCI.Enabled; e != nil && !*e {
		return errors.New(": worker.oci.enabled = false: there is no other worker here")
	}
	if e := c.Workers.Containerd.Enabled; e != nil && *e {
		return errors.New(": worker.containerd.enabled = true: containerd is inside, and [worker.oci] uses it")
	}
	if s := c.Workers.OCI.Snapshotter; s != "" && s != "auto" && s != cache.Snapshotter {
		return fmt.Errorf(": worker.oci.snapshotter = %q: the store has %s", s, cache.Snapshotter)
	}
	if f := c.Log.Format; f != "" && f != "text" && f != "json" {
		return fmt.Errorf(": log.format = %q: want text or json", f)
	}
	if g := c.Cache.GHA; g != nil && g.Verify.Required {
		return errors.New(": cache.gha.verify.required = true: signatures of caches are not checked here")
	}
	_, err := logLevel(c)
	return err
}

// logLevel is what the configuration says of [log] level, and of the older debug and trace.
func logLevel(c *config.Config) (slog.Level, error) {
	switch c.Log.Level {
	case "":
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	default:
		return 0, fmt.Errorf(": log.level = %q: want debug, info, warn or error", c.Log.Level)
	}
	//lint:ignore SA1019 many configurations have these
	if c.Debug || c.Trace {
		return slog.LevelDebug, nil
	}
	return slog.LevelInfo, nil
}
