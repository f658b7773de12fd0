// Package shim is containerd's runtime v2 shim. It is separate from package cache because a shim process must not start
// a store; cmd/shim is the program.
package shim

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Name is the file name under which the program is a shim: containerd derives the runtime
// io.containerd.runc.v2 from it.
const Name = "containerd-shim-runc-v2"

// mark survives the re-exec of os.Executable() in "start", where argv[0] does not.
const mark = "_GANTRY_SHIM"

// Called says whether this process was started to be a shim.
func Called() bool { return filepath.Base(os.Args[0]) == Name || os.Getenv(mark) != "" }

// Run is the shim's main; it does not return.
func Run() {
	os.Setenv(mark, "1")
	registry.Reset() // RunShim starts every registered plugin, and the daemon's are registered too
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return task.NewTaskService(ic.Context, publisher.(shim.Publisher), stop.(shutdown.Service))
		},
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
	os.Exit(0)
}
