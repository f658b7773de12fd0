package solver

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// sweep ends the steps that a killed daemon has left running, and takes away their mounts. Each of
// them has a bundle, named by its container's ID, in an executor's folder.
func sweep(ctx context.Context, root, runc string) error {
	bundles, err := filepath.Glob(filepath.Join(root, "executor", "*", "*", "config.json"))
	if err != nil {
		return err
	}
	for _, b := range bundles {
		id := filepath.Base(filepath.Dir(b))
		out, err := exec.CommandContext(ctx, runc, "delete", "--force", id).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "does not exist") {
			slog.Warn("a step of a killed build could not be ended", "container", id, "error", err, "output", string(out))
		}
	}
	if err := UnmountBelow(root); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(root, "executor"))
}

// UnmountBelow detaches every mount below dir, the innermost first.
func UnmountBelow(dir string) error {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		at := mounts[i].Mountpoint
		if at == dir {
			continue
		}
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, &fs.PathError{Op: "unmount", Path: at, Err: err})
		}
	}
	return errors.Join(errs...)
}
