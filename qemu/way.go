package qemu

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Mode tells whether the CPU or an emulator runs a platform's programs.
type Mode string

const (
	Native   Mode = "native"
	Emulated Mode = "emulated"
)

// String tells how, as "native" or "emulated linux/arm/v7, qemu-arm 7.2.22".
func (w Way) String() string {
	if w.Mode == Native {
		return string(Native)
	}
	by := fmt.Sprintf("emulated %s, %s", platforms.Format(w.Platform), strings.TrimSpace(filepath.Base(w.Emulator)+" "+w.Version))
	if w.Shared() {
		by += ", registered for the whole machine while gantry needs it"
	}
	return by
}

// Way is how one platform's programs run on this machine. It is a value: it may
// be copied, and is good for as long as the [Machine] that gave it is open.
type Way struct {
	Platform ocispec.Platform
	Mode     Mode
	// Emulator is the path of the emulator's program on the host, Version what
	// is known of its version. Both are empty when native.
	Emulator string
	Version  string
	// Namespace is the path of the user namespace that programs have to be in;
	// empty when they run anywhere: natively, or through the host's own table.
	// A network namespace made inside it allows ping and low ports as usual.
	Namespace string
	// Entry is the name of the entry in the machine's own table that starts programs; empty when native
	// or in a Namespace.
	Entry string

	ensure func() error // makes the entry, where it is ours; nil otherwise
}

// Shared tells that the emulator is one of ours, registered for the whole machine while it is needed.
func (w Way) Shared() bool { return w.ensure != nil }

// keeper is where an emulated container mounts the table that it uses. The kernel
// drops a table with its last mount, and a container that outlives the daemon must
// not lose its emulator.
const keeper = "/dev/.binfmt"

// Edit changes the OCI spec of a container so that it runs this way: it makes the
// entry that it needs in the machine's table, or it joins the user namespace and
// keeps the table alive. A /sys of its own stays one only when the runtime also
// makes the network namespace, because the kernel lets no one else mount sysfs;
// otherwise it becomes a bind of the host's. The same goes for /proc and the
// process namespace. The spec does not change when Namespace is
// empty, and editing twice is editing once, so a stored spec can be brought up to date.
//
// The error says that the spec asks for another user namespace, in which no
// emulator could be found, or that the machine's table did not take the entry.
func (w Way) Edit(s *specs.Spec) error {
	if w.ensure != nil {
		return w.ensure()
	}
	if w.Namespace == "" {
		return nil
	}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	if err := w.joinUser(s.Linux); err != nil {
		return err
	}
	keepTable(s)
	if !makes(s.Linux, specs.NetworkNamespace) {
		bindSys(s.Mounts)
	}
	if !makes(s.Linux, specs.PIDNamespace) {
		bindProc(s)
	}
	return nil
}

func (w Way) joinUser(l *specs.Linux) error {
	join := specs.LinuxNamespace{Type: specs.UserNamespace, Path: w.Namespace}
	i := slices.IndexFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	switch {
	case len(l.UIDMappings)+len(l.GIDMappings) > 0, i >= 0 && l.Namespaces[i].Path == "":
		return fmt.Errorf("an emulated container (%s) cannot have a user namespace of its own; run it without user mappings",
			show(w.Platform))
	case i >= 0:
		l.Namespaces[i] = join
	default:
		l.Namespaces = append(l.Namespaces, join)
	}
	return nil
}

// keepTable mounts the table where nothing sees it: read-only, because the
// container's root could redirect its neighbours' programs otherwise, and masked.
// A /dev that is not a tmpfs belongs to the host, where no directory may be left.
func keepTable(s *specs.Spec) {
	private, kept := false, false
	for _, m := range s.Mounts {
		private = private || m.Destination == "/dev" && m.Type == "tmpfs"
		kept = kept || m.Destination == keeper
	}
	if !private || kept {
		return
	}
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: keeper, Type: "binfmt_misc", Source: "binfmt_misc",
		Options: []string{"ro", "nosuid", "nodev", "noexec"},
	})
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, keeper)
}

func makes(l *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path == "" })
}

// bindProc binds the host's /proc in place of a new one, which the kernel mounts only for the owner of the
// process namespace. With it come the mounts below, and the host's binfmt_misc, which the container's root
// could write, is masked.
func bindProc(s *specs.Spec) {
	const table = "/proc/sys/fs/binfmt_misc"
	for i, m := range s.Mounts {
		if m.Type != "proc" {
			continue
		}
		s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/proc",
			Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
		if !slices.Contains(s.Linux.MaskedPaths, table) {
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, table)
		}
	}
}

func bindSys(mounts []specs.Mount) {
	for i, m := range mounts {
		if m.Type != "sysfs" {
			continue
		}
		options := []string{"rbind", "nosuid", "noexec", "nodev"}
		if !slices.Contains(m.Options, "rw") {
			options = append(options, "ro", "rro") // rro: /sys has mounts below it
		}
		mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/sys", Options: options}
	}
}
