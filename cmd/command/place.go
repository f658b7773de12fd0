package command

import (
	"os"
	"path/filepath"

	"github.com/gantry-build/gantry/cmd/thin"
)

// place says which daemon a command talks to.
type place struct{ *thin.Place }

// networkNames are those of the containers' bridge, and of its nftables table.
func (p *place) networkNames() (bridge, table string) {
	if m := p.Mark(); m != "" {
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
