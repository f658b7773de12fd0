package qemu

import (
	"context"
	"log/slog"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Emulator is a QEMU user-mode program, statically linked, on this machine.
type Emulator struct {
	Path    string // absolute
	Version string
}

// Options say what a Machine may use.
type Options struct {
	// Emulators are the programs at hand, by OCI architecture ("arm", "arm64",
	// "amd64", ...); see [Program] for which program that is. Those of native
	// architectures, and of unknown ones, are not used.
	Emulators map[string]Emulator
	Log       *slog.Logger // nil is slog.Default()
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

// Close gives the namespace back. Containers that were started with it go on:
// they hold it themselves. Ways of this machine lead nowhere afterwards.
func (m *Machine) Close() error {
	m.close.Do(func() {
		m.cancel()
		<-m.done
		if m.ns != nil {
			m.closed = m.ns.Close()
		}
	})
	return m.closed
}

// look finds out everything. The table is made while the probes run.
func look(ctx context.Context, o Options, k kernel) (found, *namespace) {
	f := found{native: k.native(), emulators: o.Emulators, broken: make(map[string]string)}
	probed := make(chan []ocispec.Platform, 1)
	go func() { probed <- compat(ctx, k, f.native) }()

	entries := f.registrations()
	var ns *namespace
	var err error
	if len(entries) > 0 {
		ns, err = k.table(ctx, entries)
	}
	f.native = append(f.native, <-probed...)

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
	if f.host, err = k.entries(); err != nil {
		o.log().Warn("host's binfmt_misc table not readable", "path", hostTable, "reason", err)
	}
	return f, ns
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
		line, err := t.line(e.Path)
		if err != nil {
			f.broken[t.arch] = err.Error()
			continue
		}
		all = append(all, registration{t.arch, line})
	}
	return all
}
