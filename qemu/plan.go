package qemu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// RefusedError says that a platform does not run on this machine.
type RefusedError struct {
	Platform ocispec.Platform
	Reason   string
	Next     string // what the user can do about it; may be empty
}

func (e *RefusedError) Error() string {
	text := show(e.Platform) + ": " + e.Reason
	if e.Next != "" {
		text += "; " + e.Next
	}
	return text
}

func show(p ocispec.Platform) string { return platforms.Format(p) }

// found is what the machine was found to have. Everything a Machine answers is a
// function of it.
type found struct {
	native    []ocispec.Platform  // the default one first
	emulators map[string]Emulator // ours, by architecture
	policy    Policy
	namespace string            // where ours work; empty when they do not
	shared    *shared           // where ours can be registered instead; nil: nowhere
	broken    map[string]string // why one of ours, or all ("") do not work
	host      []entry           // what others have made in the host's own table
	dead      map[string]bool   // architectures that no entry of those starts
}

// platforms are all that run here, native ones first.
func (f found) platforms() []ocispec.Platform {
	all := slices.Clone(f.native)
	for _, t := range targets() {
		if f.isNative(t.arch) {
			continue
		}
		for _, p := range t.platforms() {
			if _, err := f.way(p); err == nil {
				all = append(all, p)
			}
		}
	}
	return all
}

// isNative tells whether the CPU runs some variant of the architecture.
func (f found) isNative(arch string) bool {
	return slices.ContainsFunc(f.native, func(p ocispec.Platform) bool { return p.Architecture == arch })
}

func (f found) way(p ocispec.Platform) (Way, error) {
	p = platforms.Normalize(p)
	w := Way{Platform: ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}}
	if p.OS != "linux" {
		return Way{}, f.refuse(w.Platform, "only linux containers run here")
	}
	for _, n := range f.native {
		if n.Architecture == p.Architecture && n.Variant == p.Variant {
			w.Mode = Native
			return w, nil
		}
	}
	if f.isNative(p.Architecture) {
		return Way{}, f.refuse(w.Platform, fmt.Sprintf("this CPU has no %s of %s", p.Variant, p.Architecture))
	}
	return f.emulate(w)
}

func (f found) emulate(w Way) (Way, error) {
	w.Mode = Emulated
	arch := w.Platform.Architecture
	t, ok := targetFor(arch)
	if !ok {
		return Way{}, f.refuse(w.Platform, "no native CPU and no emulator known")
	}
	if !t.runs(w.Platform.Variant) {
		return Way{}, f.refuse(w.Platform, fmt.Sprintf("%s does not run this variant", t.program))
	}
	if f.policy == Off {
		return Way{}, &RefusedError{w.Platform, "emulation is off", "set emulation = \"auto\" in the daemon's configuration, or start it " +
			"with --emulation auto"}
	}
	reason := f.reason(arch)
	e, ours := f.emulators[arch]
	if ours && reason == "" && f.namespace != "" {
		w.Emulator, w.Version, w.Namespace = e.Path, e.Version, f.namespace
		return w, nil
	}
	// The kernel takes the newest of several entries, so that one is to be asked about.
	for _, h := range f.host {
		if h.starts(t) {
			return f.byEntry(w, h, reason)
		}
	}
	if ours && reason == "" && f.shared != nil {
		w.Emulator, w.Version, w.Entry = e.Path, e.Version, f.shared.name(arch)
		w.ensure = func() error { return f.shared.ensure(t, e.Path) }
		return w, nil
	}
	if reason == "" {
		reason = "no native CPU and no emulator installed"
	}
	return Way{}, f.refuse(w.Platform, reason)
}

// byEntry uses an entry of somebody else's, unless it is of no use to containers. reason is why ours is no
// choice; where it could be one, the way out is to take theirs away.
func (f found) byEntry(w Way, e entry, reason string) (Way, error) {
	var why string
	switch {
	case !e.reaches():
		why = fmt.Sprintf("the host's entry %s lacks flag F, which containers need", e.name)
	case f.dead[w.Platform.Architecture]:
		why = fmt.Sprintf("the host's entry %s starts %s, which does not run the platform's programs", e.name, e.interpreter)
	default:
		w.Emulator, w.Entry = e.interpreter, e.name
		return w, nil
	}
	if f.shared != nil && reason == "" {
		next := fmt.Sprintf("remove it (echo -1 >%s/%s) and gantry registers its own, or register a working emulator with flag F",
			hostTable, e.name)
		return Way{}, &RefusedError{w.Platform, why, next}
	}
	if reason == "" {
		reason = "no native CPU"
	}
	return Way{}, f.refuse(w.Platform, reason+", and "+why)
}

// reason tells why an emulator of ours does not work, or is empty.
func (f found) reason(arch string) string {
	if _, ours := f.emulators[arch]; !ours {
		return ""
	}
	if all := f.broken[""]; all != "" {
		return all
	}
	return f.broken[arch]
}

// refuse names what does run instead, or, where an emulator could help, the way to
// get one that every kernel can use.
func (f found) refuse(p ocispec.Platform, reason string) error {
	if t, ok := targetFor(p.Architecture); ok && p.OS == "linux" && !f.isNative(p.Architecture) && t.runs(p.Variant) {
		next := "install emulators for the whole machine (Debian: apt-get install qemu-user-static binfmt-support) and restart the daemon"
		if f.policy == Private {
			next = "allow the machine's table with emulation = \"auto\" in the daemon's configuration, or " + next
		}
		return &RefusedError{p, reason, next}
	}
	return &RefusedError{p, reason, "this machine runs " + f.list()}
}

func (f found) list() string {
	var names []string
	for _, p := range f.platforms() {
		names = append(names, show(p))
	}
	return strings.Join(names, ", ")
}
