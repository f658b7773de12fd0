// Package request settles what a user asked of a build before a daemon hears of it: which platforms, from
// which Dockerfile and local directories, with which time. It refuses what would fail late, or in words
// that do not name the flag.
package request

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/buildx/util/urlutil"

	"github.com/gantry-build/gantry/frontend/tree"
)

// Build is a request in the words of the command line.
type Build struct {
	Context   string   // a directory, an address, or - for standard input
	File      string   // --file; empty is Dockerfile in the context
	Platforms []string // --platform, each a list with commas
	Named     []string // --build-context, NAME=PATH
	Tags      []string
	Progress  string
	Push      bool
}

var progressModes = []string{"auto", "none", "plain", "quiet", "rawjson", "tty"}

// Check says what is wrong with the request and which flag that is.
func (b Build) Check() error {
	if _, err := Platforms(b.Platforms); err != nil {
		return err
	}
	if !slices.Contains(progressModes, b.Progress) {
		return fmt.Errorf("--progress %s is unknown; it is one of %s", b.Progress, strings.Join(progressModes, ", "))
	}
	if b.Push && len(b.Tags) == 0 {
		return errors.New("--push needs a name to push to; give one with --tag")
	}
	return b.checkDockerfile()
}

func (b Build) checkDockerfile() error {
	if fi, err := os.Stat(b.Context); err != nil || !fi.IsDir() || b.fileComes() {
		return nil // the Dockerfile comes from elsewhere
	}
	path := b.File
	if path == "" {
		path = filepath.Join(b.Context, "Dockerfile")
		if _, err := os.Stat(filepath.Join(b.Context, "dockerfile")); err == nil {
			return nil
		}
	}
	switch fi, err := os.Stat(path); {
	case err != nil:
		return fmt.Errorf("no Dockerfile: %w; name another with --file", err)
	case fi.IsDir():
		return fmt.Errorf("--file %s is a directory, not a Dockerfile", path)
	}
	return nil
}

// fileComes tells that the Dockerfile is not a file here.
func (b Build) fileComes() bool { return b.File == "-" || urlutil.IsRemoteURL(b.File) }

// Directories are the local directories that the build reads, by their names in the BuildKit session. A file
// or an address in their place is left out.
func (b Build) Directories() map[string]tree.Directory {
	if b.Context == "-" {
		return nil
	}
	paths := map[string]string{"context": b.Context, "dockerfile": b.Context}
	switch {
	case b.fileComes():
		delete(paths, "dockerfile")
	case b.File != "":
		paths["dockerfile"] = filepath.Dir(b.File)
	}
	for _, n := range b.Named {
		name, path, ok := strings.Cut(n, "=")
		if name == "context" || name == "dockerfile" {
			name = "_" + name // as buildx does (build/opt.go, loadInputs, v0.38.2)
		}
		if ok {
			paths[name] = path
		}
	}
	dirs := map[string]tree.Directory{}
	for name, path := range paths {
		if dir, err := tree.Identify(path); err == nil {
			dirs[name] = dir
		}
	}
	return dirs
}
