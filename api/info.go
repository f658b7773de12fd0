package api

import (
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/v2/daemon/cluster/convert"
	swarmapi "github.com/moby/swarmkit/v2/api"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/runner"
)

// Facts are what the daemon as a whole knows: what it carries, and how it is configured.
type Facts struct {
	ID                     string
	Containerd, Runc, Init string // versions
	InitBinary             string
	CDIDirs, Devices       []string // where devices are described, and their names
	Pools                  []netip.Prefix
	PoolSizes              []int // bits of the networks that are made of each
	Registries             []RegistryFacts
	Labels                 []string
	Resources              []*swarmapi.GenericResource
}

// RegistryFacts say how a registry is reached.
type RegistryFacts struct {
	Name     string
	Mirrors  []string
	Insecure bool
}

// add puts them where Docker has them.
func (f Facts) add(info *system.Info) {
	info.ID, info.InitBinary = f.ID, f.InitBinary
	info.Labels = append([]string{}, f.Labels...)
	info.GenericResources = convert.GenericResourcesFromGRPC(f.Resources)
	info.ContainerdCommit.ID, info.RuncCommit.ID, info.InitCommit.ID = f.Containerd, f.Runc, f.Init
	info.CDISpecDirs = append([]string{}, f.CDIDirs...)
	for _, name := range f.Devices {
		info.DiscoveredDevices = append(info.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: name})
	}
	for i, p := range f.Pools {
		info.DefaultAddressPools = append(info.DefaultAddressPools, system.NetworkAddressPool{Base: p, Size: f.PoolSizes[i]})
	}
	c := &registry.ServiceConfig{ // loopback may be plain HTTP
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true},
		},
	}
	for _, r := range f.Registries {
		mirrors := append([]string{}, r.Mirrors...)
		c.IndexConfigs[r.Name] = &registry.IndexInfo{Name: r.Name, Mirrors: mirrors, Secure: !r.Insecure, Official: r.Name == "docker.io"}
		if r.Name == "docker.io" {
			c.Mirrors = mirrors
		}
	}
	info.RegistryConfig = c
}

func (s *systemAPI) info(w http.ResponseWriter, r *http.Request) error {
	host, _ := os.Hostname()
	var mem unix.Sysinfo_t
	_ = unix.Sysinfo(&mem)
	files, _ := os.ReadDir("/proc/self/fd")
	has := runner.Controllers()
	info := system.Info{
		ID: host, Name: host, ServerVersion: s.o.Version, Labels: []string{},
		Driver: "overlayfs", DriverStatus: [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "ipvlan", "macvlan", "null"},
			Log: []string{"journald", "json-file", "local", "none", "syslog"},
		},
		MemoryLimit: has.Memory, SwapLimit: has.Swap, OomKillDisable: has.OomKillDisable, CPUCfsPeriod: has.CPU, CPUCfsQuota: has.CPU,
		CPUShares: has.CPU, CPUSet: has.CPUSet, PidsLimit: has.Pids,
		IPv4Forwarding: forwards(), NGoroutines: runtime.NumGoroutine(), NFd: len(files), NEventsListener: s.o.Runner.EventListeners(),
		SystemTime: time.Now().Format(time.RFC3339Nano), LoggingDriver: "json-file",
		CgroupDriver: "cgroupfs", CgroupVersion: cgroupVersion(),
		KernelVersion: kernelVersion(), OperatingSystem: osRelease("PRETTY_NAME"), OSVersion: osRelease("VERSION_ID"), OSType: "linux",
		Architecture: machine(), NCPU: runtime.NumCPU(), MemTotal: int64(mem.Totalram) * int64(max(mem.Unit, 1)),
		IndexServerAddress: "https://index.docker.io/v1/", DockerRootDir: s.o.Root, RegistryConfig: &registry.ServiceConfig{},
		HTTPProxy: os.Getenv("HTTP_PROXY"), HTTPSProxy: os.Getenv("HTTPS_PROXY"), NoProxy: os.Getenv("NO_PROXY"),
		Runtimes:       map[string]system.RuntimeWithStatus{"runc": {Runtime: system.Runtime{Path: "runc"}}},
		DefaultRuntime: "runc", Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, // containers live on without the daemon
		SecurityOptions:    []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		FirewallBackend:    &system.FirewallInfo{Driver: "nftables"},
		CDISpecDirs:        []string{},
		Warnings:           has.Warnings(),
	}
	s.count(&info)
	if s.o.Swarm != nil {
		info.Swarm = s.o.Swarm.info(r.Context())
	}
	if s.o.Info != nil {
		s.o.Info().add(&info)
	}
	answer, err := infoFor(r, info)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, answer)
}

// infoFor is /info as a client's version of the API has it.
func infoFor(r *http.Request, info system.Info) (any, error) {
	fields := map[string]any{}
	if before(r, "1.50") {
		info.DiscoveredDevices = nil
		fields["BridgeNfIptables"], fields["BridgeNfIp6tables"] = false, false
	}
	if before(r, "1.49") {
		info.FirewallBackend = nil
		for name, c := range map[string]system.Commit{
			"ContainerdCommit": info.ContainerdCommit, "RuncCommit": info.RuncCommit, "InitCommit": info.InitCommit,
		} {
			fields[name] = map[string]any{"Expected": c.ID}
		}
	}
	if before(r, "1.47") {
		fields["RegistryConfig"] = map[string]any{
			"AllowNondistributableArtifactsCIDRs": nil, "AllowNondistributableArtifactsHostnames": nil,
		}
	}
	if len(fields) == 0 {
		return info, nil
	}
	return with(info, fields)
}

func (s *systemAPI) count(info *system.Info) {
	if s.o.Images != nil {
		info.Images = s.o.Images()
	}
	for _, c := range s.o.Runner.List() {
		info.Containers++
		switch c.State.Status() {
		case "running", "restarting":
			info.ContainersRunning++
		case "paused":
			info.ContainersPaused++
		default:
			info.ContainersStopped++
		}
	}
}

func forwards() bool {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	return err == nil && strings.TrimSpace(string(data)) == "1"
}

func kernelVersion() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}

func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Machine[:])
}

func cgroupVersion() string {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	return "1"
}

// osRelease is a value of os-release(5).
func osRelease(key string) string {
	data, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			if s, err := strconv.Unquote(v); err == nil {
				return s
			}
			return v
		}
	}
	return map[string]string{"PRETTY_NAME": "linux"}[key]
}
