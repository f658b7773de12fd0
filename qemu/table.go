package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// table is a binfmt_misc instance. Its methods may be called at the same time.
type table interface {
	entries() ([]entry, error)
	// register makes an entry of one line.
	register(line string) error
	// remove takes an entry away; one that is not there is no error.
	remove(name string) error
	// attach makes the table outlive this process: it is mounted at a path, unless it is there already.
	attach(path string) error
	close() error
}

// mounted is a table as a descriptor of its mount, which need not be attached anywhere.
type mounted struct{ fd int }

// openTable mounts the table of this process's user namespace, attached nowhere. Before Linux 6.7 that is
// the machine's, whatever is or is not mounted in the usual place. step says which call err is of.
func openTable() (t mounted, step string, err error) {
	fs, err := unix.Fsopen("binfmt_misc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return t, stepOpen, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return t, stepCreate, err
	}
	t.fd, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	return t, stepMount, err
}

func (m mounted) entries() ([]entry, error) {
	return readEntries("/proc/self/fd/" + strconv.Itoa(m.fd))
}

func (m mounted) register(line string) error { return m.write("register", line) }

func (m mounted) remove(name string) error {
	err := m.write(name, "-1")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (m mounted) write(file, line string) error {
	fd, err := unix.Openat(m.fd, file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	// One write is one entry: the kernel takes no line in parts.
	if _, err := unix.Write(fd, []byte(line)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// attach mounts the table a second time: a mount that is attached nowhere can't be cloned.
func (m mounted) attach(path string) error {
	if _, err := os.Stat(filepath.Join(path, "status")); err == nil {
		return nil // a killed process has left it
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	again, _, err := openTable()
	if err != nil {
		return err
	}
	defer again.close()
	return unix.MoveMount(again.fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// detach undoes attach.
func detach(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted
		err = nil
	}
	if rerr := os.Remove(path); err == nil && rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = rerr
	}
	return err
}

func (m mounted) close() error { return unix.Close(m.fd) }

// loadModule has the kernel load binfmt_misc. The kernel does so by itself where it finds a modprobe; PATH
// may have one that it does not know.
func loadModule() error {
	const module = "binfmt_misc"
	program, err := exec.LookPath("modprobe")
	for _, dir := range []string{"/sbin", "/usr/sbin"} {
		if err != nil {
			program, err = exec.LookPath(filepath.Join(dir, "modprobe"))
		}
	}
	if err != nil {
		return errors.New("there is no modprobe to load it with")
	}
	out, err := exec.Command(program, module).CombinedOutput()
	if err != nil {
		return fmt.Errorf("`modprobe %s` says: %s", module, bytes.TrimSpace(append(out, err.Error()...)))
	}
	return nil
}

// withModule calls open again when the kernel may only have lacked a module.
func withModule[T any](open func() (T, error)) (T, error) {
	v, err := open()
	if !errors.Is(err, errNoBinfmt) {
		return v, err
	}
	if lerr := loadModule(); lerr != nil {
		return v, fmt.Errorf("%w, and %w; install the kernel's modules, or take a kernel with CONFIG_BINFMT_MISC", err, lerr)
	}
	return open()
}

// Release is the running kernel's, as uname(2) has it; "" when it does not tell.
func Release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// AtLeast tells whether a kernel's release is major.minor or newer.
func AtLeast(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// running tells whether the process is still the one that began then.
func running(pid int, begin string) bool {
	now, err := began(pid)
	return err == nil && now == begin
}

// began is when a process began, in clock ticks after the machine (proc(5), stat, field 22).
func began(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is a name in parentheses, which may have both in it.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return string(fields[19]), nil
}
