package spec

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultPath is the PATH of an image that sets none.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const defaultShm = 64 << 20

// User is a user looked up in the container's own /etc/passwd and /etc/group.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

// Files are the host's copies of the files that the daemon writes for a container. An empty path
// leaves the image's own file in place.
type Files struct{ ResolvConf, Hostname, Hosts string }

// Machine is what Build has to know of the host.
type Machine struct {
	Capabilities      []string // all that can be given; nil means AllCapabilities
	Devices           []specs.LinuxDevice
	SwapLimit         bool // the kernel accounts swap
	RecursiveReadOnly bool // mount_setattr(2) exists: read-only binds are so all the way down
	NoQueues          bool // the host has no /dev/mqueue to share
}

// Input is all that an OCI specification is made of.
type Input struct {
	ID      string
	Config  Config // merged with the image
	Host    HostConfig
	User    User
	Mounts  []Mount // resolved, in any order
	Devices []specs.LinuxDevice
	Files   Files
	Machine Machine
	BlockIO *specs.LinuxBlockIO // limits of single block devices
	Network string              // path of another container's network namespace, to be shared; empty: its own, or the host's
	PID     string              // likewise, of its process namespace
	Init    string              // the host's path of the init, for a container that has one
	IPC     string              // likewise, of its IPC namespace
	Shm     string              // the directory of the host that is /dev/shm, where it is shared
}

// Build makes the specification. It has no seccomp profile yet: see Seccomp. The root file system is
// "rootfs" in the bundle, where containerd's shim mounts it. Errors are errdefs.ErrInvalidArgument.
func Build(in Input) (*specs.Spec, error) {
	sec, err := parseSecurity(in.Host.SecurityOpt)
	if err != nil {
		return nil, err
	}
	proc, err := process(in, sec)
	if err != nil {
		return nil, err
	}
	res, err := resources(in)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := mounts(in, sec)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:     "1.2.0",
		Process:     proc,
		Root:        &specs.Root{Path: "rootfs", Readonly: in.Host.ReadonlyRootfs},
		Hostname:    in.Config.Hostname,
		Domainname:  in.Config.Domainname,
		Mounts:      mounts,
		Annotations: in.Host.Annotations,
		Linux: &specs.Linux{
			CgroupsPath:       path.Join("/", cgroupParent(in.Host), in.ID),
			Namespaces:        namespaces(in),
			Resources:         res,
			Devices:           devices(in),
			Sysctl:            sysctls(in),
			RootfsPropagation: propagation,
		},
	}
	if in.Host.UTSMode == "host" { // runc refuses to rename the host
		s.Hostname, s.Domainname = "", ""
	}
	if !in.Host.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = HiddenPaths(in.Host)
		if sec.systemPaths {
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}
	}
	return s, nil
}

func orDefault(v []string, def func() []string) []string {
	if v == nil {
		return def()
	}
	return v
}

func cgroupParent(h HostConfig) string {
	if h.CgroupParent != "" {
		return h.CgroupParent
	}
	return "gantry"
}

func process(in Input, sec security) (*specs.Process, error) {
	caps, err := capabilities(in.Host, in.Machine.Capabilities)
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(in.Host.Ulimits)
	if err != nil {
		return nil, err
	}
	oom := in.Host.OomScoreAdj
	p := &specs.Process{
		Terminal:        in.Config.Tty,
		Args:            command(in),
		Env:             Env(in.Config, in.User),
		Cwd:             cwd(in.Config),
		User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups, Umask: in.Host.Umask},
		Capabilities:    capabilitySets(caps, in.User.UID),
		Rlimits:         limits,
		NoNewPrivileges: sec.noNewPrivileges,
		OOMScoreAdj:     &oom, // else the shim's, which protects it from the OOM killer, is inherited
	}
	if size := in.Host.ConsoleSize; in.Config.Tty && size[0] > 0 && size[1] > 0 {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	return p, nil
}

// InitPath is where a container's init is. It is Docker's place.
const InitPath = "/sbin/docker-init"

// HasInit says whether a container asks for an init and can have one: process 1 is its own.
func HasInit(h HostConfig) bool { return h.Init != nil && *h.Init && h.PidMode == "" }

func command(in Input) []string {
	if !HasInit(in.Host) {
		return in.Config.Args()
	}
	return append([]string{InitPath, "--"}, in.Config.Args()...)
}

func cwd(c Config) string {
	if c.WorkingDir == "" {
		return "/"
	}
	return path.Clean(c.WorkingDir)
}

// Env is the environment of a container's process: Docker's own variables, then the configured ones.
func Env(c Config, u User) []string {
	base := []string{DefaultPath, "HOSTNAME=" + c.Hostname}
	if c.Tty {
		base = append(base, "TERM=xterm")
	}
	if u.Home != "" {
		base = append(base, "HOME="+u.Home)
	}
	return mergeEnv(base, c.Env)
}

func namespaces(in Input) []specs.LinuxNamespace {
	h := in.Host
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		typ    specs.LinuxNamespaceType
		host   bool
		shared string
	}{
		{specs.NetworkNamespace, h.NetworkMode == "host", in.Network},
		{specs.UTSNamespace, h.UTSMode == "host", ""},
		{specs.PIDNamespace, h.PidMode == "host", in.PID},
		{specs.IPCNamespace, h.IpcMode == "host", in.IPC},
		{specs.CgroupNamespace, h.CgroupnsMode == "host", ""},
	} {
		if !n.host {
			ns = append(ns, specs.LinuxNamespace{Type: n.typ, Path: n.shared})
		}
	}
	return ns
}

func sysctls(in Input) map[string]string {
	m := map[string]string{}
	if in.Host.NetworkMode != "host" && in.Network == "" { // a namespace of its own needs no guard for low ports and ping
		m["net.ipv4.ip_unprivileged_port_start"] = "0"
		m["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	for k, v := range in.Host.Sysctls {
		m[k] = v
	}
	if len(m) == 0 {
		return nil
	}
	return m
}

// HiddenPaths are what a container does not see of /proc and /sys, and what it can't write to; nil where nothing is hidden.
func HiddenPaths(h HostConfig) (masked, readonly []string) {
	if h.Privileged {
		return nil, nil
	}
	return orDefault(h.MaskedPaths, maskedPaths), orDefault(h.ReadonlyPaths, readonlyPaths)
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// LookupEnv returns the last value of a variable in an environment.
func LookupEnv(env []string, name string) (string, bool) {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v, true
		}
	}
	return "", false
}
