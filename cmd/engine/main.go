// Command engine is all that gantry is: its whole command line, the daemon, the shim of each container, the
// helper that makes the namespace in which foreign programs run, and the xz that BuildKit starts. Users meet it as gantry, which carries it
// (cmd/gantry).
package main

import (
	"os"

	"github.com/gantry-build/gantry/cache/shim"
	"github.com/gantry-build/gantry/cmd/command"
	"github.com/gantry-build/gantry/internal/compressed"
	"github.com/gantry-build/gantry/qemu"
)

// main is the re-exec table.
func main() {
	qemu.MaybeChild()
	if shim.Called() {
		shim.Run()
	}
	if compressed.Called() {
		os.Exit(compressed.Run())
	}
	os.Exit(command.Main(os.Args[1:]))
}
