package cache

import (
	"fmt"
	"path/filepath"

	runtimev2 "github.com/containerd/containerd/v2/core/runtime/v2"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	// Each import registers the plugins that allowed names below.
	_ "github.com/containerd/containerd/api/types/runc/options"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/mount"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
)

// allowed lists the plugins that are started. The registry is a process global that any import
// may add to, so everything not named here stays off.
var allowed = map[string]bool{
	"io.containerd.content.v1.content":               true,
	"io.containerd.event.v1.exchange":                true,
	"io.containerd.snapshotter.v1.overlayfs":         true,
	"io.containerd.metadata.v1.bolt":                 true,
	"io.containerd.gc.v1.scheduler":                  true,
	"io.containerd.lease.v1.manager":                 true,
	"io.containerd.mount-manager.v1.bolt":            true,
	"io.containerd.differ.v1.walking":                true,
	"io.containerd.service.v1.diff-service":          true,
	"io.containerd.service.v1.tasks-service":         true,
	"io.containerd.service.v1.introspection-service": true,
	"io.containerd.service.v1.namespaces-service":    true,
	"io.containerd.warning.v1.deprecations":          true,
	"io.containerd.shim.v1.manager":                  true,
	"io.containerd.runtime.v2.task":                  true,
	"io.containerd.grpc.v1.events":                   true, // owns RegisterTTRPC, the shims' way back
}

func init() {
	registry.Register(&plugin.Registration{
		Type: plugins.SnapshotPlugin,
		ID:   Snapshotter,
		InitFn: func(ic *plugin.InitContext) (any, error) {
			root := ic.Properties[plugins.PropertyRootDir]
			ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
			ic.Meta.Exports[plugins.SnapshotterRootDir] = root
			sn, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
			if err != nil {
				return nil, err
			}
			return &aliasing{sn}, nil
		},
	})
}

// engine is the started plugin graph.
type engine struct {
	set     *plugin.Set
	started []*plugin.Plugin
}

func ttrpcAddress(state string) string { return filepath.Join(state, "shim.ttrpc") }

// startEngine starts every allowed plugin in dependency order, in this process.
func startEngine(ic func(*plugin.Registration, *plugin.Set) *plugin.InitContext, state string) (*engine, error) {
	e := &engine{set: plugin.NewPluginSet()}
	for _, reg := range registry.Graph(func(r *plugin.Registration) bool { return !allowed[r.URI()] }) {
		if cfg, ok := reg.Config.(*runtimev2.ShimConfig); ok {
			cfg.SocketDir = filepath.Join(state, "s") // short: a socket path has 107 bytes
		}
		p := reg.Init(ic(&reg, e.set))
		if err := e.set.Add(p); err != nil {
			return e, err
		}
		if _, err := p.Instance(); err != nil {
			if plugin.IsSkipPlugin(err) {
				continue
			}
			return e, fmt.Errorf("starting %s: %w", reg.URI(), err)
		}
		e.started = append(e.started, p)
	}
	return e, nil
}

// instance returns the plugin (typ, id) as a T.
func instance[T any](e *engine, typ plugin.Type, id string) (T, error) {
	var zero T
	p := e.set.Get(typ, id)
	if p == nil {
		return zero, fmt.Errorf("containerd plugin %s.%s was not started", typ, id)
	}
	v, err := p.Instance()
	if err != nil {
		return zero, fmt.Errorf("containerd plugin %s.%s: %w", typ, id, err)
	}
	t, ok := v.(T)
	if !ok {
		return zero, fmt.Errorf("containerd plugin %s.%s is a %T, not a %T", typ, id, v, zero)
	}
	return t, nil
}

// close stops the plugins in reverse order; errors of one do not keep the others open.
func (e *engine) close() {
	for i := len(e.started) - 1; i >= 0; i-- {
		v, err := e.started[i].Instance()
		if err != nil {
			continue
		}
		if c, ok := v.(interface{ Close() error }); ok {
			_ = c.Close()
		}
	}
}
