package command

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"
)

// place says which daemon a command talks to: each data root has its own, with its own socket.
type place struct {
	root   string
	socket string
	config string
	debug  bool
}

func (p *place) flags(f *pflag.FlagSet) {
	f.StringVar(&p.root, "root", os.Getenv("GANTRY_ROOT"), "data root (default /var/lib/gantry; env GANTRY_ROOT)")
	f.StringVar(&p.socket, "socket", os.Getenv("GANTRY_SOCKET"), "socket of the daemon (default: follows from the data root; env GANTRY_SOCKET)")
	f.StringVar(&p.config, "config", os.Getenv("GANTRY_CONFIG"), "configuration file (default /etc/gantry/gantry.toml; env GANTRY_CONFIG)")
	f.BoolVar(&p.debug, "debug", false, "log more")
}

const (
	defaultRoot   = "/var/lib/gantry"
	defaultState  = "/run/gantry"
	defaultConfig = "/etc/gantry/gantry.toml"
)

// Root is the absolute data root.
func (p *place) Root() string {
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

// mark tells data roots apart in names of devices, tables and directories; empty for the default.
func (p *place) mark() string {
	if p.Root() == defaultRoot {
		return ""
	}
	sum := sha256.Sum256([]byte(p.Root()))
	return hex.EncodeToString(sum[:4])
}

// networkNames are those of the containers' bridge, and of its nftables table.
func (p *place) networkNames() (bridge, table string) {
	if m := p.mark(); m != "" {
		return "gty-" + m, "gantry_" + m
	}
	return "gantry0", "gantry"
}

// existing is a directory, or the nearest one above it that is there.
func existing(dir string) string {
	for dir != "/" {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// State is the runtime directory. It is short whatever the root's name is: sockets live in it, and
// a socket's path has 107 bytes.
func (p *place) State() string {
	base := defaultState
	if os.Getuid() != 0 {
		run := os.Getenv("XDG_RUNTIME_DIR")
		if run == "" {
			run = filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
		}
		base = filepath.Join(run, "gantry")
	}
	if m := p.mark(); m != "" {
		return base + "-" + m
	}
	return base
}

// Config is the absolute path of the configuration file that was named; empty when none was.
func (p *place) Config() string { return absolute(p.config) }

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
func (p *place) Socket() string {
	if p.socket != "" {
		return absolute(p.socket)
	}
	return filepath.Join(p.State(), "gantry.sock")
}
