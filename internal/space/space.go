// Package space tells what fits on a disk, before something is begun that does not.
package space

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Free is how many bytes an unprivileged user could write to the file system that path is on.
func Free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// Check refuses what takes at least need bytes below dir when they are not there: errdefs.ErrResourceExhausted, with what
// to do. Where the space can't be told, nothing is refused.
func Check(dir string, need int64, what string) error {
	free, err := Free(dir)
	if err != nil || need <= free {
		return nil
	}
	return fmt.Errorf("%s takes at least %s, and %s has %s left: `gantry system df --why` says what takes the space, "+
		"`gantry system prune` gives back what nobody uses: %w",
		what, units.HumanSize(float64(need)), dir, units.HumanSize(float64(free)), errdefs.ErrResourceExhausted)
}
