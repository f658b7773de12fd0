package compressed

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// XZ is the name of the program that BuildKit starts to unpack an ADDed .tar.xz (moby/go-archive,
// compression.go, xzDecompress, v0.2.0). The engine is that program when it is called so.
const XZ = "xz"

// Called tells whether this process is to be that program.
func Called() bool { return filepath.Base(os.Args[0]) == XZ }

// Run unpacks standard input to standard output and returns the exit code, as xz -d -c does.
func Run() int {
	r, err := Open(os.Stdin)
	if err == nil {
		_, err = io.Copy(os.Stdout, r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
