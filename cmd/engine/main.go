// Command engine is all that gantry is: its whole command line, the daemon, the helper that makes the namespace in which
// foreign programs run, and the xz that BuildKit starts. Users meet it as gantry, which carries it (cmd/gantry); the shim
// of each container is a program of its own (cmd/shim), which it carries.
package main

import (
	"os"

	"github.com/gantry-build/gantry/cmd/command"
	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/qemu"
)

// main is the re-exec table.
func main() {
	qemu.MaybeChild()
	if compressed.Called() {
		os.Exit(compressed.Run())
	}
	os.Exit(command.Main(os.Args[1:]))
}
