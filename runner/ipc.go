package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/spec"
)

// shmDir is the /dev/shm of a container that lets others have it, too.
func (m *Manager) shmDir(id string) string { return filepath.Join(m.o.State, "shm", id) }

// settleIPC checks the IPC mode, and names another container by its ID.
func (m *Manager) settleIPC(h *spec.HostConfig) error {
	ref, shares := strings.CutPrefix(h.IpcMode, "container:")
	if !shares {
		if h.IpcMode == "" {
			h.IpcMode = "private"
		}
		return nil
	}
	other, err := m.find(ref)
	if err != nil {
		return fault.Invalid("%v", err) // not a 404: docker run would pull the image
	}
	h.IpcMode = "container:" + other.id
	return nil
}

// shareIPC makes a container's /dev/shm where others can have it, or finds that of the container whose IPC it shares.
// Both are empty for a container that shares none.
func (m *Manager) shareIPC(rec Record) (shm, ns string, err error) {
	if rec.HostConfig.IpcMode == "shareable" {
		return m.mountShm(rec)
	}
	owner, err := m.owner(rec.HostConfig.IpcMode, "IPC")
	if err != nil || owner == nil {
		return "", "", err
	}
	other := owner.record()
	switch mode := other.HostConfig.IpcMode; {
	case mode == "host":
		return "/dev/shm", fmt.Sprintf("/proc/%d/ns/ipc", other.State.Pid), nil
	case mode != "shareable":
		return "", "", fault.Conflict("failed to join IPC namespace: container %s: non-shareable IPC (hint: use IpcMode:shareable for "+
			"the donor "+
			"container)",
			other.ID)
	}
	return m.shmDir(other.ID), fmt.Sprintf("/proc/%d/ns/ipc", other.State.Pid), nil
}

func (m *Manager) mountShm(rec Record) (dir, ns string, err error) {
	dir = m.shmDir(rec.ID)
	if err := m.unmountShm(rec.ID); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	err = unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV,
		fmt.Sprintf("mode=1777,size=%d", rec.HostConfig.ShmSize))
	if err != nil {
		return "", "", fmt.Errorf("mounting /dev/shm of container %s: %w", rec.ID, err)
	}
	return dir, "", nil
}

// unmountShm takes a container's shared /dev/shm away; those who have it keep it.
func (m *Manager) unmountShm(id string) error {
	dir := m.shmDir(id)
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting /dev/shm of container %s: %w", id, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
