package cache

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/state"
)

// ErrLocked says that another daemon owns the data root.
var ErrLocked = state.ErrInUse

// Lock takes the data root for this process. bolt would wait for ever for a second owner, deaf to
// signals, so this lock comes before any of its files is opened. The kernel drops it when the
// process ends, however it ends.
func Lock(root string) (unlock func(), err error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("data root: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(f.Name())
		f.Close()
		return nil, fmt.Errorf("%w: %s belongs to the gantry daemon with pid %s", ErrLocked, root, strings.TrimSpace(string(owner)))
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	return func() { f.Close() }, nil
}
