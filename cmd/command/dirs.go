package command

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/cmd/thin"
	"github.com/gantry-build/gantry/solver"
)

// prepareDirs makes the runtime directory, and one of the daemon's own for temporary files: BuildKit
// mounts there, and what a killed daemon has left mounted is found and taken away.
func prepareDirs(at *place) error {
	if err := os.MkdirAll(at.State(), 0o711); err != nil {
		return err
	}
	if err := closeRoot(at.Root()); err != nil {
		return err
	}
	tmp := filepath.Join(at.Root(), "tmp")
	if err := solver.UnmountBelow(tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", tmp)
}

// inRoot are the files and directories of a data root, whichever of gantry's commands makes them.
var inRoot = []string{
	"bin", "buildx", "certs.d", "containers", "daemon.log", "idle", "lock", "network", "networks.json", "registries.json",
	"registries.json.lock", "registry",
	"solver", "store", "tmp", "volumes",
}

// removeOldEngines takes away what other versions of gantry have unpacked. Processes of theirs that still run
// have their program open.
func removeOldEngines(bin string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ours := filepath.Dir(self)
	if filepath.Dir(ours) != bin {
		return nil // not unpacked: it can't be told which is in use
	}
	all, err := filepath.Glob(filepath.Join(bin, thin.EngineName+"-*"))
	if err != nil {
		return err
	}
	for _, dir := range all {
		if dir != ours {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// closeRoot lets no other user into what is in the data root, whichever version has made it.
func closeRoot(root string) error {
	if err := os.Chmod(root, 0o711); err != nil {
		return err
	}
	for _, name := range inRoot {
		path := filepath.Join(root, name)
		fi, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		switch mode := fi.Mode(); {
		case mode&os.ModeSymlink != 0: // the user's: it leads to a place of the user's own choice
		case mode.IsDir():
			err = os.Chmod(path, 0o700)
		default:
			err = os.Chmod(path, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// linkTo makes link point to the program, replacing what it was in one step.
func linkTo(program, link string) (string, error) {
	if to, err := os.Readlink(link); err == nil && to == program {
		return link, nil
	}
	tmp := link + ".new"
	_ = os.Remove(tmp)
	if err := os.Symlink(program, tmp); err != nil {
		return "", err
	}
	return link, os.Rename(tmp, link)
}

// listenUnix binds the socket in place of a dead daemon's.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: another daemon answers there; choose one with --socket", path)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("socket %s: there is a file of another kind; remove it, or choose another place with --socket", path)
	}
	_ = os.Remove(path)
	old := unix.Umask(0o117) // no one else may connect, not even for a moment
	defer unix.Umask(old)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}
