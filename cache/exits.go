package cache

import (
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
)

type exit struct {
	code uint32
	at   time.Time
}

// readExits collects the exit codes that shims of v2.4 and newer leave as exit.json in the bundle.
func readExits(state string) map[string]exit {
	exits := map[string]exit{}
	bundles, _ := filepath.Glob(filepath.Join(state, "io.containerd.runtime.v2.task", Namespace, "*"))
	for _, b := range bundles {
		if e, err := runc.ReadExitStatus(b); err == nil {
			exits[filepath.Base(b)] = exit{code: uint32(e.Status), at: e.Timestamp}
		}
	}
	return exits
}

// Exit tells how a container ended that died while no daemon was watching.
func (s *Store) Exit(container string) (code uint32, at time.Time, ok bool) {
	e, ok := s.exits[container]
	return e.code, e.at, ok
}
