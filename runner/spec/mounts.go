package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/internal/fault"
)

// Mount is a mount whose source is known.
type Mount struct {
	Type         string // bind, tmpfs, or overlay, which is an image's and read-only
	Source       string // a path of the host, for bind
	Target       string // an absolute path in the container
	ReadOnly     bool
	NonRecursive bool
	Propagation  string   // rprivate when empty
	ReadOnlyTop  bool     // read-only, but not what is mounted below the source
	ForceRO      bool     // fail unless read-only all the way down
	Options      []string // for tmpfs and overlay
}

// mounts returns the container's mounts, outer before inner, and the root's propagation.
func mounts(in Input, sec security) ([]specs.Mount, string, error) {
	user := slices.Clone(in.Mounts)
	seen := map[string]bool{}
	for _, m := range user {
		t := path.Clean(m.Target)
		if !path.IsAbs(t) || t == "/" {
			return nil, "", fault.Invalid("invalid mount target %q: it must be an absolute path other than '/'", m.Target)
		}
		if seen[t] {
			return nil, "", fault.Invalid("Duplicate mount point: %s", t)
		}
		seen[t] = true
	}
	for _, f := range fileMounts(in.Files) {
		if !seen[f.Target] {
			user = append(user, f)
		}
	}
	if HasInit(in.Host) {
		user = append(user, Mount{Type: "bind", Source: in.Init, Target: InitPath, ReadOnly: true})
	}
	slices.SortStableFunc(user, func(a, b Mount) int {
		return cmp.Compare(strings.Count(path.Clean(a.Target), "/"), strings.Count(path.Clean(b.Target), "/"))
	})
	var out []specs.Mount
	for _, m := range systemMounts(in, sec) {
		if !seen[m.Destination] {
			out = append(out, m)
		}
	}
	propagation := ""
	for _, m := range user {
		out = append(out, m.oci(in.Machine.RecursiveReadOnly))
		propagation = widest(propagation, m.Propagation)
	}
	return out, propagation, nil
}

func fileMounts(f Files) []Mount {
	var m []Mount
	for _, e := range [][2]string{
		{f.ResolvConf, "/etc/resolv.conf"}, {f.Hostname, "/etc/hostname"}, {f.Hosts, "/etc/hosts"},
	} {
		if e[0] != "" {
			m = append(m, Mount{Type: "bind", Source: e[0], Target: e[1]})
		}
	}
	return m
}

// widest is the propagation that the root needs for its mounts to have theirs.
func widest(have, want string) string {
	switch want {
	case "shared", "rshared":
		return "shared"
	case "slave", "rslave":
		if have != "shared" {
			return "rslave"
		}
	}
	return have
}

func (m Mount) oci(recursiveRO bool) specs.Mount {
	o := specs.Mount{Type: m.Type, Source: m.Source, Destination: path.Clean(m.Target)}
	if m.Type == "overlay" {
		o.Options = append(slices.Clone(m.Options), "ro")
		return o
	}
	if m.Type == "tmpfs" {
		o.Source = "tmpfs"
		o.Options = append([]string{"noexec", "nosuid", "nodev"}, m.Options...)
		if m.ReadOnly {
			o.Options = append(o.Options, "ro")
		}
		return o
	}
	bind := "rbind"
	if m.NonRecursive {
		bind = "bind"
	}
	prop := m.Propagation
	if prop == "" {
		prop = "rprivate"
	}
	o.Options = []string{bind, prop}
	switch {
	case !m.ReadOnly:
	case m.ForceRO, recursiveRO && !m.ReadOnlyTop:
		o.Options = append(o.Options, "ro", "rro")
	default:
		o.Options = append(o.Options, "ro")
	}
	return o
}

func systemMounts(in Input, sec security) []specs.Mount {
	ro, cgroup := []string{"ro"}, []string{"ro"}
	if in.Host.Privileged {
		ro, cgroup = []string{"rw"}, []string{"rw"}
	}
	if w := sec.writableCgroups; w != nil {
		cgroup = []string{map[bool]string{true: "rw", false: "ro"}[*w]}
	}
	ms := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"nosuid", "noexec", "nodev"}, ro...)},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: append([]string{"nosuid", "noexec", "nodev"}, cgroup...)},
	}
	return append(ms, ipcMounts(in.Host, in.Machine, in.Shm)...)
}

func ipcMounts(h HostConfig, m Machine, shm string) []specs.Mount {
	if h.IpcMode == "host" {
		shared := func(dir string) specs.Mount {
			return specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
		}
		if m.NoQueues {
			return []specs.Mount{shared("/dev/shm")}
		}
		return []specs.Mount{shared("/dev/shm"), shared("/dev/mqueue")}
	}
	ms := []specs.Mount{{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}}
	if h.IpcMode == "none" {
		return ms
	}
	if shm != "" {
		return append(ms, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"bind", "rprivate"}})
	}
	size := h.ShmSize
	if size == 0 {
		size = defaultShm
	}
	return append(ms, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
		Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}})
}
