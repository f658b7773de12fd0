package api

import (
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"
)

func registerSystem(r *Router, o Options) {
	s := &systemAPI{o}
	r.Handle(http.MethodGet, "/_ping", s.ping) // GET answers HEAD too
	r.Handle(http.MethodGet, "/version", s.version)
	r.Handle(http.MethodGet, "/info", s.info)
}

type systemAPI struct{ o Options }

func (s *systemAPI) ping(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Builder-Version", "2") // BuildKit
	h.Set("Swarm", "inactive")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", "2")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err
}

func (s *systemAPI) version(w http.ResponseWriter, _ *http.Request) error {
	kernel := kernelVersion()
	return writeJSON(w, http.StatusOK, system.VersionResponse{
		Platform:   system.PlatformInfo{Name: "Gantry"},
		Version:    s.o.Version,
		APIVersion: MaxVersion, MinAPIVersion: s.o.MinVersion,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernel,
		Components: []system.ComponentVersion{{
			Name: "Engine", Version: s.o.Version,
			Details: map[string]string{
				"ApiVersion": MaxVersion, "MinAPIVersion": s.o.MinVersion, "Experimental": "false", "Os": runtime.GOOS, "Arch": runtime.GOARCH,
				"GoVersion": runtime.Version(), "KernelVersion": kernel,
			},
		}},
	})
}

func (s *systemAPI) info(w http.ResponseWriter, _ *http.Request) error {
	host, _ := os.Hostname()
	var mem unix.Sysinfo_t
	_ = unix.Sysinfo(&mem)
	info := system.Info{
		ID: host, Name: host, ServerVersion: s.o.Version,
		Driver: "overlayfs", DriverStatus: [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "none"},
		},
		MemoryLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true,
		IPv4Forwarding: true, NGoroutines: runtime.NumGoroutine(), SystemTime: time.Now().Format(time.RFC3339Nano),
		LoggingDriver: "json-file", CgroupDriver: "cgroupfs", CgroupVersion: cgroupVersion(),
		KernelVersion: kernelVersion(), OperatingSystem: osName(), OSType: "linux", Architecture: machine(),
		NCPU: runtime.NumCPU(), MemTotal: int64(mem.Totalram) * int64(max(mem.Unit, 1)),
		DockerRootDir: s.o.Root, RegistryConfig: &registry.ServiceConfig{},
		Runtimes:       map[string]system.RuntimeWithStatus{"runc": {Runtime: system.Runtime{Path: "runc"}}},
		DefaultRuntime: "runc", Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, // containers live on without the daemon
		SecurityOptions:    []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		Warnings:           []string{},
	}
	s.count(&info)
	return writeJSON(w, http.StatusOK, info)
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

// osName is os-release(5)'s PRETTY_NAME.
func osName() string {
	data, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			if s, err := strconv.Unquote(v); err == nil {
				return s
			}
			return v
		}
	}
	return "linux"
}
