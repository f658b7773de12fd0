// Package lookup finds out what package spec, which is pure, has to be told before it makes an OCI
// specification: users and groups in the container's own files, device nodes, and what this machine can do.
package lookup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/continuity/fs"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

// openIn opens a file below root as a process with that root would, so that an image's symlink
// can't lead to the host's file. The reader is nil when there is no such file.
func openIn(root, name string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root + "/" + name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// User resolves USER[:GROUP] and --group-add in the container's own files.
func User(root, who string, groups []string) (spec.User, error) {
	passwd, closePasswd, err := reader(root, "etc/passwd")
	if err != nil {
		return spec.User{}, err
	}
	defer closePasswd()
	group, closeGroup, err := reader(root, "etc/group")
	if err != nil {
		return spec.User{}, err
	}
	defer closeGroup()
	u, err := user.GetExecUser(who, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return spec.User{}, fault.Invalid("%v", err) // which names who
	}
	out := spec.User{UID: uint32(u.Uid), GID: uint32(u.Gid), Home: u.Home}
	out.Groups = appendGroups([]uint32{out.GID}, u.Sgids)
	if len(groups) > 0 {
		again, closeAgain, err := reader(root, "etc/group")
		if err != nil {
			return out, err
		}
		defer closeAgain()
		more, err := user.GetAdditionalGroups(groups, again)
		if err != nil {
			return out, fault.Invalid("unable to find group: %v", err)
		}
		out.Groups = appendGroups(out.Groups, more)
	}
	return out, nil
}

func appendGroups(to []uint32, ids []int) []uint32 {
	have := map[uint32]bool{}
	for _, g := range to {
		have[g] = true
	}
	for _, g := range ids {
		if !have[uint32(g)] {
			have[uint32(g)] = true
			to = append(to, uint32(g))
		}
	}
	return to
}

// reader opens a file for a parser that wants an empty one rather than none.
func reader(root, name string) (io.Reader, func(), error) {
	f, err := openIn(root, name)
	if err != nil {
		return nil, nil, fmt.Errorf("looking up the user: %w", err)
	}
	if f == nil {
		return strings.NewReader(""), func() {}, nil
	}
	return io.LimitReader(f, 4<<20), func() { f.Close() }, nil
}

// Devices finds the nodes behind --device; a directory means all below it.
func Devices(asked []spec.Device) ([]specs.LinuxDevice, error) {
	var all []specs.LinuxDevice
	for _, d := range asked {
		if strings.Trim(d.CgroupPermissions, "rwm") != "" {
			return nil, fault.Invalid("invalid device permissions %q of %s", d.CgroupPermissions, d.PathOnHost)
		}
		found, err := device(d)
		if err != nil {
			return nil, fault.Invalid("error gathering device information while adding custom device %q: %v", d.PathOnHost, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func device(d spec.Device) ([]specs.LinuxDevice, error) {
	in := d.PathInContainer
	if in == "" {
		in = d.PathOnHost
	}
	host, err := fs.RootPath("/", d.PathOnHost) // /dev/disk/by-id/...
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(host)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		dev, err := oci.DeviceFromPath(host)
		if err != nil {
			return nil, err
		}
		dev.Path = in
		return []specs.LinuxDevice{*dev}, nil
	}
	all, err := oci.HostDevices()
	var below []specs.LinuxDevice
	for _, dev := range all {
		if rest, ok := strings.CutPrefix(dev.Path, strings.TrimSuffix(host, "/")+"/"); ok {
			dev.Path = in + "/" + rest
			below = append(below, dev)
		}
	}
	return below, err
}

// Machine finds what spec.Build has to know of the host.
func Machine(privileged bool) (spec.Machine, error) {
	m := spec.Machine{RecursiveReadOnly: kernelAtLeast(5, 12)}
	caps, err := cap.Current()
	if err != nil {
		return m, fmt.Errorf("own capabilities: %w", err)
	}
	m.Capabilities = caps
	swap := "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"
	if Unified() {
		swap = "/proc/swaps"
	}
	_, err = os.Stat(swap)
	m.SwapLimit = err == nil
	_, err = os.Stat("/dev/mqueue")
	m.NoQueues = err != nil
	if privileged {
		if m.Devices, err = oci.HostDevices(); err != nil {
			return m, fmt.Errorf("devices of the host: %w", err)
		}
	}
	return m, nil
}

// Unified tells whether this machine has version 2 of control groups, and no other.
func Unified() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	a, b, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), ".")
	b, _, _ = strings.Cut(b, ".")
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(strings.TrimRightFunc(b, func(r rune) bool { return r < '0' || r > '9' }))
	return x > major || x == major && y >= minor
}
