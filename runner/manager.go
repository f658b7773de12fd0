// Package runner keeps containers: their records, their life cycle over containerd's client, their
// input, output and logs, and their volumes. A container hangs on its shim, never on this process:
// the daemon may be killed at any moment, and the next one finds the container running, reads on
// where the pipes wait, and books the end of those that died meanwhile.
//
// Words: a record is what is known of a container and is a file; a run is one life of its process; a
// stream is what a run prints or reads; the rim is the code that looks things up (users, devices,
// mounts) before package spec, which is pure, makes the OCI specification.
//
// It knows nothing of HTTP. Its errors are those of containerd/errdefs, with Docker's texts.
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/runner/lookup"
	"github.com/gantry-build/gantry/runner/network"
	"github.com/gantry-build/gantry/runner/network/dns"
	"github.com/gantry-build/gantry/runner/process"
	"github.com/gantry-build/gantry/runner/volume"
)

// imageStore is what a runner asks of the one store.
type imageStore interface {
	// Open finds a local image and makes the root file system of the wanted platform ready.
	Open(ctx context.Context, ref string, p *ocispec.Platform) (*cache.Image, error)
	// Runtime names the shim and how it finds runc.
	Runtime() (string, *options.Options)
	// Exit tells how a container ended that died while no daemon was watching.
	Exit(container string) (code uint32, at time.Time, ok bool)
}

// Emulation says how a platform's programs run here; *qemu.Machine has it.
type Emulation interface {
	Way(ocispec.Platform) (qemu.Way, error)
}

// Options say what a Manager works with. All are needed but Log.
type Options struct {
	Root    string // containers/ and volumes/ are made below it
	State   string // FIFOs and runc's state; gone after a reboot; a short path
	Store   *cache.Store
	Qemu    Emulation
	Network *network.Host
	CDI     lookup.CDI
	Init    string // path of the program that is process 1 with --init; empty: there is none
	Log     *slog.Logger

	// Resumed says that the daemon before has ended by itself, on the same boot, as nothing ran.
	Resumed bool
}

// Manager keeps the containers of one data root. All methods are safe for concurrent use.
type Manager struct {
	Processes *process.Table // further processes in running containers

	o       Options
	store   imageStore
	client  *client.Client
	log     *slog.Logger
	volumes *volume.Store
	events  bus

	servers servers

	joining  sync.RWMutex    // held for writing where nobody may enter a network
	nets     sync.Mutex      // guards the three that follow
	networks []NetworkRecord // in the order in which they were made
	tables   map[string]*dns.Table
	others   map[string]map[string]Names // what SetNames has said, by network and owner

	onJoin atomic.Pointer[func(Record) error]
	places atomic.Pointer[Places]

	said       sync.Once
	placesSaid chan struct{} // closed by the first SetPlaces

	ctx  context.Context // ends with Close; what outlives a request runs under it
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.RWMutex // guards what follows
	byID  map[string]*container
	names map[string]string // name to ID; a name is taken before its record is written
}

// Start reads all records, takes up the containers that run, books the ends of those that died, and
// returns when every container's state is true. Containers whose restart policy asks for it are
// started in the background.
func Start(ctx context.Context, o Options) (*Manager, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	m := &Manager{
		o: o, store: o.Store, client: o.Store.Client, log: o.Log, byID: map[string]*container{}, names: map[string]string{},
		placesSaid: make(chan struct{}),
	}
	base := cache.WithNamespace(context.WithoutCancel(ctx))
	m.ctx, m.stop = context.WithCancel(base)
	for _, dir := range []string{m.containersDir(), m.fifoDir()} {
		if err := state.Private(dir); err != nil {
			return nil, fmt.Errorf("runner: %w", err)
		}
	}
	var err error
	if m.volumes, err = volume.Open(filepath.Join(o.Root, "volumes")); err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	}
	if err := m.loadNetworks(); err != nil {
		return nil, fmt.Errorf("runner: %w", err)
	}
	m.Processes = process.New(process.Options{
		Context: m.ctx, Pipes: m.fifoDir(), Log: m.log, Find: m.runningIn, Background: m.background,
	})
	if err := m.restore(ctx); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("taking up containers in %s: %w", o.Root, err)
	}
	return m, nil
}

// Close lets go of all containers, which keep running, and waits for the goroutines. Attached
// clients get the end of their streams.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.stop()
	m.mu.Unlock()
	for _, c := range m.all() {
		c.release()
	}
	m.Processes.Release()
	m.wg.Wait()
	m.servers.close()
	for _, c := range m.all() {
		_ = c.log.Close()
	}
	m.events.close()
	return nil
}

func (m *Manager) containersDir() string { return filepath.Join(m.o.Root, "containers") }
func (m *Manager) fifoDir() string       { return filepath.Join(m.o.State, "fifo") }

func (m *Manager) subpaths() volume.Subpaths {
	return volume.Subpaths{Dir: filepath.Join(m.o.State, "subpaths"), Log: m.log}
}

func (m *Manager) all() []*container {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := make([]*container, 0, len(m.byID))
	for _, c := range m.byID {
		list = append(list, c)
	}
	return list
}

// find looks a container up by ID, name, or the beginning of an ID, in this order.
func (m *Manager) find(ref string) (*container, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	name := strings.TrimPrefix(ref, "/")
	if c := m.byID[ref]; c != nil {
		return c, nil
	}
	if c := m.byID[m.names[name]]; c != nil {
		return c, nil
	}
	var found *container
	for id, c := range m.byID {
		if ref != "" && strings.HasPrefix(id, ref) {
			if found != nil {
				return nil, errdefs.ErrInvalidArgument.WithMessage("multiple IDs found with provided prefix: " + ref)
			}
			found = c
		}
	}
	if found == nil {
		return nil, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	return found, nil
}

// runningIn is a container for further processes.
func (m *Manager) runningIn(ref string) (process.Container, error) {
	c, err := m.find(ref)
	if err != nil {
		return process.Container{}, err
	}
	r, err := c.running()
	if err != nil {
		return process.Container{}, err
	}
	rec := c.record()
	event := func(action string, extra ...string) { m.emit(c.record(), action, extra...) }
	return process.Container{ID: c.id, Task: r.task, User: rec.Config.User, Groups: rec.HostConfig.GroupAdd,
		Paused: rec.State.Paused, Event: event}, nil
}

// Top lists the processes of a container, as process.Top.
func (m *Manager) Top(ctx context.Context, ref, psArgs string) (titles []string, rows [][]string, err error) {
	c, err := m.runningIn(ref)
	if err != nil {
		return nil, nil, err
	}
	return process.Top(ctx, c.Task, psArgs)
}

// Get returns a copy of a container's record. errdefs.ErrNotFound when there is none.
func (m *Manager) Get(ref string) (Record, error) {
	c, err := m.find(ref)
	if err != nil {
		return Record{}, err
	}
	return c.record(), nil
}

// List returns copies of all records, in no order.
func (m *Manager) List() []Record {
	all := m.all()
	list := make([]Record, len(all))
	for i, c := range all {
		list[i] = c.record()
	}
	return list
}

// Running counts the containers that run or are about to be restarted.
func (m *Manager) Running() int {
	n := 0
	for _, c := range m.all() {
		if r := c.record(); r.State.Running || r.State.Restarting {
			n++
		}
	}
	return n
}

// Emulated are the architectures of the containers that run, or wait for a restart, by an emulator.
func (m *Manager) Emulated() []string {
	var all []string
	for _, c := range m.all() {
		r := c.record()
		if r.Emulated && (r.State.Running || r.State.Restarting) && !slices.Contains(all, r.Platform.Architecture) {
			all = append(all, r.Platform.Architecture)
		}
	}
	return all
}

// Dir is where a container's files are: resolv.conf, hostname, hosts, and <id>-json.log.
func (m *Manager) Dir(id string) string { return filepath.Join(m.containersDir(), id) }

// background runs f in a goroutine that Close waits for. It is false when the manager is closing.
func (m *Manager) background(f func()) bool {
	m.mu.RLock() // not between Close's stop and its wait
	defer m.mu.RUnlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.wg.Go(f)
	return true
}

var errClosing = errors.New("the daemon is shutting down")
