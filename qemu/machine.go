package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Emulator is a QEMU user-mode program, statically linked, on this machine.
type Emulator struct {
	Path    string // absolute
	Version string
}

// Policy says in which binfmt_misc table emulators may be registered.
type Policy string

const (
	// Auto is a table of the Machine's own where the kernel has private ones (Linux 6.7). On older kernels
	// it is the machine's, for the platforms that have no entry there yet, while they are needed.
	Auto Policy = "auto"
	// Private is never the machine's table. Entries that others have made there are used.
	Private Policy = "private"
	// Off is no emulation, whatever the machine has.
	Off Policy = "off"
)

// ParsePolicy reads a policy; "" is Auto.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case "":
		return Auto, nil
	case Auto, Private, Off:
		return p, nil
	}
	return "", fmt.Errorf("emulation %q is unknown; it is one of %s, %s, %s", s, Auto, Private, Off)
}

// Options say what a Machine may use.
type Options struct {
	// Emulators are the programs at hand, by OCI architecture ("arm", "arm64",
	// "amd64", ...); see [Program] for which program that is. Those of native
	// architectures, and of unknown ones, are not used.
	Emulators map[string]Emulator
	Policy    Policy // "" is Auto
	// Owner tells this Machine's entries in the machine's table from those of others that run beside it. It
	// is the start of their names after "gantry-", and may be empty.
	Owner string
	// Mount is a path, of no file yet, where the machine's table is mounted while entries of this Machine are in
	// it, so that programs outlive the process. "" is nowhere.
	Mount string
	Log   *slog.Logger // nil is slog.Default()
}

func (o Options) log() *slog.Logger {
	if o.Log != nil {
		return o.Log
	}
	return slog.Default()
}

// Machine answers which platforms run here. All its methods may be called at the
// same time.
type Machine struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when found and ns are set
	found  found
	ns     *namespace
	close  sync.Once
	closed error
}

// Start begins to look at the machine and to make its emulation namespace, and
// returns at once: the first question waits for the answer. A machine that cannot
// emulate is no error, it refuses platforms; so far Start has none to return.
// Cancelling ctx before the first answer gives a machine without emulation.
func Start(ctx context.Context, o Options) (*Machine, error) {
	return start(ctx, o, linux{}), nil
}

func start(ctx context.Context, o Options, k kernel) *Machine {
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		m.found, m.ns = look(ctx, o, k)
	}()
	return m
}

// Platforms are all platforms that run here: the CPU's own first, with its
// variants, then the emulated ones.
func (m *Machine) Platforms() []ocispec.Platform {
	<-m.done
	return m.found.platforms()
}

// Way tells how a platform runs here. Its error is a [*RefusedError].
func (m *Machine) Way(p ocispec.Platform) (Way, error) {
	<-m.done
	return m.found.way(p)
}

// Leave has Close take all entries of this Machine's owner from the machine's table, those of a process that
// was killed included, but for those of the architectures, whose programs go on. Close takes none away
// that nobody has asked it to: only who knows what runs can tell.
func (m *Machine) Leave(architectures ...string) {
	<-m.done
	if m.found.shared != nil {
		m.found.shared.leave(architectures...)
	}
}

// Refusals are the platforms that an emulator at hand is for, and that do not run here all the same.
func (m *Machine) Refusals() []*RefusedError {
	<-m.done
	var all []*RefusedError
	for _, t := range targets() {
		if _, ours := m.found.emulators[t.arch]; !ours || m.found.isNative(t.arch) {
			continue
		}
		var refused *RefusedError
		if _, err := m.found.way(t.platforms()[0]); errors.As(err, &refused) {
			all = append(all, refused)
		}
	}
	return all
}

// Close gives the namespace back. Containers that were started with it go on:
// they hold it themselves. Entries in the machine's table stay, unless [Machine.Leave]
// was called. Ways of this machine lead nowhere afterwards.
func (m *Machine) Close() error {
	m.close.Do(func() {
		m.cancel()
		<-m.done
		if m.ns != nil {
			m.closed = m.ns.Close()
		}
		if m.found.shared != nil {
			m.closed = errors.Join(m.closed, m.found.shared.close())
		}
	})
	return m.closed
}

// look finds out everything. The table is made while the probes run.
func look(ctx context.Context, o Options, k kernel) (found, *namespace) {
	f := found{native: k.native(), emulators: o.Emulators, policy: o.Policy, broken: make(map[string]string)}
	probed := make(chan []ocispec.Platform, 1)
	go func() { probed <- compat(ctx, k, f.native) }()

	entries := f.registrations()
	var ns *namespace
	var err error
	if len(entries) > 0 && o.Policy != Off {
		ns, err = k.table(ctx, entries)
	}
	f.native = append(f.native, <-probed...)

	if errors.Is(err, errOnlyShared) && o.Policy != Private {
		f.shared, err = o.share(k)
	}
	if err != nil {
		f.broken[""] = err.Error()
	}
	if err != nil && ctx.Err() == nil {
		o.log().Warn("no emulation of our own", "reason", err)
	}
	if ns != nil {
		f.namespace = ns.path()
		for arch, why := range ns.failed {
			f.broken[arch] = o.Emulators[arch].Path + " was not accepted by the kernel: " + why
			o.log().Warn("emulator refused", "architecture", arch, "reason", f.broken[arch])
		}
	}
	if f.host, err = f.others(k); err != nil {
		o.log().Warn("host's binfmt_misc table not readable", "path", hostTable, "reason", err)
	}
	if f.namespace == "" {
		f.dead = dead(ctx, k, f.host)
	}
	return f, ns
}

// share opens the machine's table.
func (o Options) share(k kernel) (*shared, error) {
	t, p, err := k.machine()
	if err != nil {
		return nil, err
	}
	s := &shared{table: t, owner: strings.TrimSuffix(ownPrefix+o.Owner, "-"), mount: o.Mount, p: p, log: o.log()}
	if err := s.sweep(); err != nil {
		o.log().Warn("entries of killed commands could not be removed", "error", err)
	}
	return s, nil
}

// others are the entries that somebody else has made in the machine's table.
func (f found) others(k kernel) ([]entry, error) {
	if f.shared != nil {
		return f.shared.others()
	}
	return k.entries()
}

// dead are the architectures whose programs do not start by the entries that others have made for them.
func dead(ctx context.Context, k kernel, host []entry) map[string]bool {
	all := make(map[string]bool)
	for _, t := range targets() {
		program := tiny(t.arch)
		if program != nil && slices.ContainsFunc(host, func(e entry) bool { return e.starts(t) }) && !k.runs(ctx, program) {
			all[t.arch] = true
		}
	}
	return all
}

// registrations are the entries to make. A path that no entry can hold breaks its
// emulator only.
func (f found) registrations() []registration {
	var all []registration
	for _, t := range targets() {
		e, ok := f.emulators[t.arch]
		if !ok || f.isNative(t.arch) {
			continue
		}
		line, err := t.line(t.program, e.Path, flags)
		if err != nil {
			f.broken[t.arch] = err.Error()
			continue
		}
		all = append(all, registration{t.arch, line})
	}
	return all
}
