// Package cache is the one content-addressed store: containerd, assembled from its plugins inside
// this process. Build results, pulled images, running containers and the build cache are records
// over the same blobs and the same overlayfs snapshots, kept alive by leases and labels and
// collected by one garbage collector.
//
// It is the only importer of containerd's server side. Its words: a blob is addressed by digest; a
// snapshot is a directory tree; an alias is a second name of a snapshot; an image is a record that
// points to a manifest or an index.
package cache

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/events/exchange"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/plugin"
	"github.com/containerd/ttrpc"

	"github.com/gantry-build/gantry/internal/state"
)

const (
	// Namespace is the one containerd namespace for builds, images and containers.
	Namespace = "gantry"
	// Snapshotter is the name of the one snapshotter.
	Snapshotter = "overlayfs"
)

// WithNamespace makes a context one of the store's namespace, which containerd's services ask for.
func WithNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// Options says where the store lives and which programs it runs.
type Options struct {
	Root  string // persistent files
	State string // sockets and bundles of running containers; gone after a reboot; a short path
	Shim  string // absolute path of a program that is a containerd runtime v2 shim
	Runc  string // absolute path of runc
	Temp  string // where layers are mounted while they are read; a directory of the caller's
}

// Store is a started store. All methods are safe for concurrent use.
type Store struct {
	Client *client.Client // containerd's client over the in-process services
	DB     *metadata.DB   // the metadata store below the client

	opts     Options
	exits    map[string]exit
	eng      *engine
	ttrpc    *ttrpc.Server
	serve    chan error
	names    sync.Mutex // guards reading and changing what names point to
	aliasing sync.Mutex
}

// Root is where the store's files are.
func (s *Store) Root() string { return s.opts.Root }

// Rootfs is where the root file system of a container is mounted while it runs.
func (s *Store) Rootfs(container string) string {
	return filepath.Join(s.opts.State, "io.containerd.runtime.v2.task", Namespace, container, "rootfs")
}

// Start opens the store and returns when it is ready. The caller holds Lock on the data root.
func Start(ctx context.Context, o Options) (*Store, error) {
	// containerd makes files and directories below that everybody may write (plugins/content/local/store.go,
	// v2.4.2), as the daemon's umask is 0.
	for _, dir := range []string{o.Root, o.State} {
		if err := state.Private(dir); err != nil {
			return nil, err
		}
	}
	if o.Temp != "" {
		if err := mount.SetTempMountLocation(o.Temp); err != nil { // a global of containerd's, /tmp otherwise
			return nil, err
		}
	}
	// The runtime plugin drops shims whose container has ended, and their exit codes with them.
	s := &Store{opts: o, exits: readExits(o.State)}
	eng, err := startEngine(s.initContext(ctx), o.State)
	s.eng = eng
	if err == nil {
		err = s.connect()
	}
	if err == nil {
		err = s.serveShims(ctx)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("starting the store in %s: %w", o.Root, err)
	}
	return s, nil
}

func (s *Store) initContext(ctx context.Context) func(*plugin.Registration, *plugin.Set) *plugin.InitContext {
	return func(r *plugin.Registration, set *plugin.Set) *plugin.InitContext {
		ic := plugin.NewContext(ctx, set, map[string]string{
			plugins.PropertyRootDir:      filepath.Join(s.opts.Root, r.URI()),
			plugins.PropertyStateDir:     filepath.Join(s.opts.State, r.URI()),
			plugins.PropertyTTRPCAddress: ttrpcAddress(s.opts.State),
			plugins.PropertyGRPCAddress:  filepath.Join(s.opts.State, "none.sock"), // shims want a value
		})
		ic.Config = r.Config
		ic.RegisterReadiness = func() func() { return func() {} } // the mount manager calls it unasked
		return ic
	}
}

// connect builds the client. A service left out here is a nil pointer panic in some later call.
func (s *Store) connect() (err error) {
	must := func(e error) {
		if err == nil {
			err = e
		}
	}
	db, e := instance[*metadata.DB](s.eng, plugins.MetadataPlugin, "bolt")
	must(e)
	events, e := instance[*exchange.Exchange](s.eng, plugins.EventPlugin, "exchange")
	must(e)
	lease, e := instance[leases.Manager](s.eng, plugins.LeasePlugin, "manager")
	must(e)
	tasks, e := instance[tasksapi.TasksClient](s.eng, plugins.ServicePlugin, services.TasksService)
	must(e)
	intro, e := instance[introspection.Service](s.eng, plugins.ServicePlugin, services.IntrospectionService)
	must(e)
	nss, e := instance[namespacesapi.NamespacesClient](s.eng, plugins.ServicePlugin, services.NamespacesService)
	must(e)
	walk, e := instance[differ](s.eng, plugins.DiffPlugin, "walking")
	must(e)
	mounts, e := instance[mount.Manager](s.eng, plugins.MountManagerPlugin, "bolt")
	must(e)
	if err != nil {
		return err
	}
	s.DB = db
	s.Client, err = client.New("", client.WithDefaultNamespace(Namespace), client.WithDefaultRuntime(s.opts.Shim), client.WithServices(
		client.WithContentStore(db.ContentStore()),
		client.WithImageStore(metadata.NewImageStore(db)),
		client.WithContainerStore(metadata.NewContainerStore(db)),
		client.WithSandboxStore(metadata.NewSandboxStore(db)),
		client.WithSnapshotters(map[string]snapshots.Snapshotter{Snapshotter: db.Snapshotter(Snapshotter)}),
		client.WithLeasesService(lease),
		client.WithTaskClient(tasks),
		client.WithEventService(events),
		client.WithDiffService(walk),
		client.WithMountManager(mounts),
		client.WithIntrospectionService(intro),
		client.WithNamespaceClient(nss),
	))
	return err
}

type differ interface {
	diff.Applier
	diff.Comparer
}

// serveShims opens the socket on which shims publish their events.
func (s *Store) serveShims(ctx context.Context) error {
	type registrar interface{ RegisterTTRPC(*ttrpc.Server) error }
	ev, err := instance[registrar](s.eng, plugins.GRPCPlugin, "events")
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	if err := ev.RegisterTTRPC(srv); err != nil {
		return err
	}
	addr := ttrpcAddress(s.opts.State)
	_ = os.Remove(addr)
	l, err := net.Listen("unix", addr)
	if err != nil {
		return err
	}
	if err := os.Chmod(addr, 0o600); err != nil {
		l.Close()
		return err
	}
	s.ttrpc, s.serve = srv, make(chan error, 1)
	go func() { s.serve <- srv.Serve(context.WithoutCancel(ctx), l) }()
	return nil
}

// Runtime returns what client.WithRuntime wants: the shim and how it finds runc.
func (s *Store) Runtime() (string, *options.Options) {
	return s.opts.Shim, &options.Options{BinaryName: s.opts.Runc}
}

// Close releases every file of the store. Running containers stay with their shims.
func (s *Store) Close() {
	if s.ttrpc != nil {
		_ = s.ttrpc.Close()
		<-s.serve
	}
	if s.eng != nil {
		s.eng.close()
	}
}
