// Command gantry takes a Dockerfile to a running, mixed-architecture cluster. It is the one file that users
// have: the light half of the command line (cmd/thin), which starts as fast as docker does, and the engine,
// compressed, which it unpacks once and becomes for everything else.
package main

import (
	"os"
	"path/filepath"

	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/internal/payload"
)

func main() {
	os.Exit(thin.Main(os.Args[1:], thin.Engine{
		Unpack: func(root string) (string, error) {
			return payload.ExtractFrom(engine, filepath.Join(root, "bin"), thin.EngineName)
		},
		Load: func() (*os.File, error) { return payload.Load(engine, thin.EngineName) },
	}))
}
