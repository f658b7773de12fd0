// Package tree answers what a build asks of a local directory before it reads the files: is it the
// directory that the client means ([Directory]), is it as it was ([Sign]), which part of it does the build
// read ([Selection]), and what differs from the copy of the last build ([Differing]).
//
// A signature stands for the state of a tree without its content; it is only ever compared with another of
// the same process. A selection is what a build's include, exclude and follow patterns leave of a tree; the
// exclude patterns are those of .dockerignore.
package tree

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Directory identifies a client's directory, with all that is below it: in another mount namespace other
// file systems may be mounted there.
type Directory struct {
	Path   string `json:"path"`
	Dev    uint64 `json:"dev"`
	Inode  uint64 `json:"ino"`
	Mounts uint64 `json:"mounts"` // the mount namespace's inode
}

// Identify returns the identity of the directory at path, as this process sees it.
func Identify(path string) (Directory, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Directory{}, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return Directory{}, err
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return Directory{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.IsDir() {
		return Directory{}, fmt.Errorf("%s is not a directory", path)
	}
	var ns syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/mnt", &ns); err != nil {
		return Directory{}, fmt.Errorf("own mount namespace: %w", err)
	}
	return Directory{Path: abs, Dev: uint64(st.Dev), Inode: st.Ino, Mounts: ns.Ino}, nil
}

// Here tells that this process sees the very same directory.
func (d Directory) Here() bool {
	here, err := Identify(d.Path)
	return err == nil && here == d
}

const sharedKeyPrefix = "gantry-dirs:"

// SharedKey is the BuildKit session's shared key by which a client on this machine tells where its local
// directories (by name, such as "context") are.
func SharedKey(dirs map[string]Directory) string {
	dt, _ := json.Marshal(dirs) // a map of plain values can't fail, and is sorted
	return sharedKeyPrefix + string(dt)
}

// ParseSharedKey is the reverse of SharedKey; nil for other clients' keys.
func ParseSharedKey(key string) map[string]Directory {
	rest, ok := strings.CutPrefix(key, sharedKeyPrefix)
	if !ok {
		return nil
	}
	var dirs map[string]Directory
	if json.Unmarshal([]byte(rest), &dirs) != nil {
		return nil
	}
	return dirs
}
