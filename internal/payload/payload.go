package payload

import (
	"io/fs"
	"os"
	"path"
	"runtime"
)

func carried() bundle { return carriedBy(packed) }

// carriedBy are the programs in bin/ARCH of an embedded file system.
func carriedBy(packed fs.FS) bundle {
	files, err := fs.Sub(packed, path.Join("bin", runtime.GOARCH))
	if err != nil {
		panic(err) // only a malformed constant path
	}
	return bundle{files: files, arch: runtime.GOARCH}
}

// Load unpacks a program of such a set into memory. The file is ready to be executed by its descriptor, which
// is inherited.
func Load(packed fs.FS, name string) (*os.File, error) { return carriedBy(packed).load(name) }

// ExtractFrom is [Extract] for another set of programs, which has its manifest and the compressed programs in
// bin/ARCH.
func ExtractFrom(packed fs.FS, dir, name string) (path string, err error) {
	return carriedBy(packed).extract(dir, name)
}

// Names are the carried programs, in the order of packing; none in a gantry that
// was built without them.
func Names() []string {
	m, err := carried().manifest()
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range m.Programs {
		names = append(names, p.Name)
	}
	return names
}

// Version is the version of a carried program, or "" when it is not carried.
func Version(name string) string {
	p, err := carried().find(name)
	if err != nil {
		return ""
	}
	return p.Version
}

// Extract unpacks a carried program, unless it has been already, and returns its
// path: dir/NAME-DIGEST/NAME, DIGEST being the start of its SHA-256. Another
// version therefore never replaces a program that is in use. dir is made when it
// is missing; it must not be on a file system mounted noexec.
//
// It may be called at the same time by any number of goroutines and processes,
// and killed at any moment. An unpacked program is taken for good when its size
// is right; only what is unpacked now is verified by digest.
func Extract(dir, name string) (path string, err error) { return carried().extract(dir, name) }
