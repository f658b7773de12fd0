package command

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gantry-build/gantry/internal/state"
)

// A daemon that ends as it is idle leaves a mark with the boot that it ran in, so that the next one,
// which the next command starts, knows that no user has meant to start anything anew.

func idleMark(at *place) string { return filepath.Join(at.Root(), "idle") }

func bootID() ([]byte, error) { return os.ReadFile("/proc/sys/kernel/random/boot_id") }

func markIdle(at *place) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	return state.Write(idleMark(at), boot, 0o600)
}

// tookIdleMark tells whether the daemon before has left its mark in this boot, and removes it.
func tookIdleMark(at *place) bool {
	mark, err := os.ReadFile(idleMark(at))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	boot, berr := bootID()
	return errors.Join(err, berr, os.Remove(idleMark(at))) == nil && string(mark) == string(boot)
}
