package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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
	path := filepath.Join(root, "lock")
	unlock, err = state.TryLock(path)
	if errors.Is(err, ErrLocked) {
		owner, _ := os.ReadFile(path)
		return nil, fmt.Errorf("%w: %s belongs to the gantry daemon with pid %s", ErrLocked, root, strings.TrimSpace(string(owner)))
	}
	if err != nil {
		return nil, fmt.Errorf("data root: %w", err)
	}
	_ = os.WriteFile(path, fmt.Appendln(nil, os.Getpid()), 0o600) // for whoever comes second
	return unlock, nil
}
