package cache

import (
	"fmt"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"

	"github.com/gantry-build/gantry/internal/check"
)

// CheckOverlay finds out whether layers can be kept in a directory. It mounts there, and takes everything away
// again.
func CheckOverlay(dir string) check.Finding {
	const subject = "overlayfs"
	if err := overlayutils.Supported(dir); err != nil {
		return check.Finding{
			Subject: subject, Text: fmt.Sprintf("layers can't be kept in %s: %v", dir, err),
			Next: "choose a directory on ext4, xfs (with ftype=1) or btrfs with --root, or run: modprobe overlay",
		}
	}
	return check.OK(subject, "works in "+dir)
}
