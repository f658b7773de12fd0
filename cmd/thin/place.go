package thin

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Place says which daemon a command talks to: each data root has its own, with its own socket.
type Place struct {
	root   string
	socket string
	config string
	debug  bool

	unpack func(root string) (string, error) // gives the engine; nil in the engine itself
}

// Flags adds the flags that say which daemon a command talks to.
func (p *Place) Flags(f *pflag.FlagSet) {
	f.StringVar(&p.root, "root", os.Getenv("GANTRY_ROOT"), "data root (default /var/lib/gantry; env GANTRY_ROOT)")
	f.StringVar(&p.socket, "socket", os.Getenv("GANTRY_SOCKET"), "socket of the daemon (default: follows from the data root; env "+
		"GANTRY_SOCKET)")
	f.StringVar(&p.config, "config", os.Getenv("GANTRY_CONFIG"), "configuration file (default /etc/gantry/gantry.toml; env GANTRY_CONFIG)")
	f.BoolVar(&p.debug, "debug", false, "log more")
}

const (
	defaultRoot   = "/var/lib/gantry"
	defaultState  = "/run/gantry"
	DefaultConfig = "/etc/gantry/gantry.toml"
)

// Root is the absolute data root.
func (p *Place) Root() string {
	root := p.root
	if root == "" {
		root = defaultRoot
		if os.Getuid() != 0 {
			root = filepath.Join(dataHome(), "gantry")
		}
	}
	if abs, err := filepath.Abs(root); err == nil {
		root = abs
	}
	return resolve(root)
}

// resolve follows the symbolic links in the part of path that exists: one root has one name, which
// is also the one that the kernel's list of mounts has.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolve(dir), filepath.Base(path))
	}
	return path
}

func dataHome() string {
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return d
	}
	return filepath.Join(os.Getenv("HOME"), ".local", "share")
}

// Mark tells data roots apart in names of devices, tables and directories; empty for the default.
func (p *Place) Mark() string {
	if p.Root() == defaultRoot {
		return ""
	}
	sum := sha256.Sum256([]byte(p.Root()))
	return hex.EncodeToString(sum[:4])
}

// State is the runtime directory. It is short whatever the root's name is: sockets live in it, and
// a socket's path has 107 bytes.
func (p *Place) State() string {
	base := defaultState
	if os.Getuid() != 0 {
		run := os.Getenv("XDG_RUNTIME_DIR")
		if run == "" {
			run = filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
		}
		base = filepath.Join(run, "gantry")
	}
	if m := p.Mark(); m != "" {
		return base + "-" + m
	}
	return base
}

// At is the place of a data root, a socket and a configuration file; "" is the usual one of each.
func At(root, socket, config string) *Place {
	return &Place{root: root, socket: socket, config: config}
}

// engine is the path of the program that has the daemon in it.
func (p *Place) engine() (string, error) {
	if err := p.CheckRoot(); err != nil {
		return "", err
	}
	if p.unpack != nil {
		return p.unpack(p.Root())
	}
	self, err := os.Executable()
	if strings.HasPrefix(self, "/memfd:") {
		self = "/proc/self/exe"
	}
	return self, err
}

// CheckRoot refuses a data root that everybody shares, such as /tmp, before anything is written there.
func (p *Place) CheckRoot() error {
	if fi, err := os.Stat(p.Root()); err == nil && fi.Mode()&os.ModeSticky != 0 {
		return fmt.Errorf("data root %s: other users share this directory (it is sticky, like /tmp): choose another with --root, "+
			"or, if it is gantry's alone, such as a tmpfs of its own, run: chmod 0711 %[1]s", p.Root())
	}
	return nil
}

// Debug tells whether more is to be logged.
func (p *Place) Debug() bool { return p.debug }

// Config is the absolute path of the configuration file that was named; empty when none was.
func (p *Place) Config() string { return absolute(p.config) }

// absolute is what a relative path means here and now: the daemon that a command starts works in /.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Socket is the absolute path of the daemon's socket.
func (p *Place) Socket() string {
	if p.socket != "" {
		return absolute(p.socket)
	}
	return filepath.Join(p.State(), "gantry.sock")
}
