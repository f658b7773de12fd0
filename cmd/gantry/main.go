// Command gantry takes a Dockerfile to a running, mixed-architecture cluster.
package main

import (
	"os"

	"github.com/gantry-build/gantry/cache/shim"
	"github.com/gantry-build/gantry/cmd/command"
	"github.com/gantry-build/gantry/qemu"
)

// main is the re-exec table: the one file is the CLI, the daemon, the shim of each container, and
// the helper that makes the namespace in which foreign programs run.
func main() {
	qemu.MaybeChild()
	if shim.Called() {
		shim.Run()
	}
	os.Exit(command.Main(os.Args[1:]))
}
