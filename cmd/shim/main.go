// Command shim is the shim of each container. It is a program of its own, which the engine carries, because it starts
// twice with every container: the engine, with all its libraries, takes five times as long to come up.
package main

import "github.com/gantry-build/gantry/cache/shim"

func main() { shim.Run() }
