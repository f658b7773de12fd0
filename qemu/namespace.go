package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespace is a user namespace with its table. Both live for as long as one of
// the descriptors, a process or a mount uses them: nothing is left in the file
// system, not even by kill -9.
type namespace struct {
	user   *os.File
	table  *os.File
	maker  *maker            // nil: no one makes network namespaces in it
	failed map[string]string // entries not taken, by architecture
}

// path leads runc into the namespace for as long as this process lives.
func (n *namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.user.Fd())
}

func (n *namespace) Close() error {
	err := errors.Join(n.user.Close(), n.table.Close())
	if n.maker != nil {
		err = errors.Join(err, n.maker.Close())
	}
	return err
}

func (linux) table(ctx context.Context, entries []registration) (*namespace, error) {
	if !privateTables() {
		return nil, fmt.Errorf("kernel %s %w", Release(), errOnlyShared)
	}
	return withModule(func() (*namespace, error) { return newNamespace(ctx, entries) })
}

func newNamespace(ctx context.Context, entries []registration) (*namespace, error) {
	var stderr bytes.Buffer
	// The process stays: ctx ends the question, not the answer.
	cmd, err := inside(context.WithoutCancel(ctx), request{Task: taskTable, Entries: entries})
	if err != nil {
		return nil, err
	}
	cmd.Stderr = &stderr
	cmd.SysProcAttr.Setsid = true // a terminal's Ctrl-C is for the daemon
	n, err := begin(cmd)
	if err != nil {
		return nil, err
	}
	m := &maker{socket: n.socket, cmd: cmd, stderr: &stderr}
	if n.err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("%w %s", n.err, strings.TrimSpace(stderr.String()))
	}
	n.maker = m
	return n.namespace, nil
}

// inside is this program again, in a new identity-mapped user namespace and a
// mount namespace of its own.
func inside(ctx context.Context, r request) (*exec.Cmd, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	uids, err := identity("/proc/self/uid_map")
	if err != nil {
		return nil, err
	}
	gids, err := identity("/proc/self/gid_map")
	if err != nil {
		return nil, err
	}
	// Not os.Executable: the file may have been replaced since.
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{"gantry-qemu"}
	cmd.Env = append(os.Environ(), childVar+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings:                uids,
		GidMappings:                gids,
		GidMappingsEnableSetgroups: maySetGroups(),
	}
	return cmd, nil
}

// maySetGroups is false in a rootless user namespace that gave setgroups up; no
// namespace below it can have it back.
func maySetGroups() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "allow"
}

// identity maps every id that this process's user namespace knows to itself.
func identity(file string) ([]syscall.SysProcIDMap, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var ids []syscall.SysProcIDMap
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		row := strings.Fields(s.Text())
		if len(row) != 3 {
			return nil, fmt.Errorf("reading %s: %q is not a mapping", file, s.Text())
		}
		first, err := strconv.Atoi(row[0])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		size, err := strconv.Atoi(row[2])
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: size})
	}
	return ids, nil
}

// outcome is a started child's answer: a namespace, or why there is none. The
// child is to be waited for, and the socket to be closed, in either case.
type outcome struct {
	*namespace
	socket int
	err    error
}

// begin starts the child and takes its answer. An error means that no child runs.
func begin(cmd *exec.Cmd) (outcome, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return outcome{}, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "child")
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	// Ours must be closed before reading, or the end of a dead child never shows.
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return outcome{}, explain(stepClone, err)
	}
	n, err := receive(pair[0])
	return outcome{n, pair[0], err}, nil
}

func receive(socket int) (*namespace, error) {
	text, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(2*4))
	n, rn, _, _, err := recvmsg(socket, text, rights)
	if err != nil {
		return nil, fmt.Errorf("waiting for the namespace's process: %w", err)
	}
	if n == 0 {
		return nil, errors.New("the namespace's process ended without an answer; does main call qemu.MaybeChild first?")
	}
	fds, err := descriptors(rights[:rn])
	if err != nil {
		return nil, err
	}
	var r reply
	if err := json.Unmarshal(text[:n], &r); err != nil {
		closeAll(fds)
		return nil, fmt.Errorf("reading the namespace's process: %w", err)
	}
	if r.Step != "" {
		closeAll(fds)
		return nil, explain(r.Step, r.Errno)
	}
	if len(fds) != 2 {
		closeAll(fds)
		return nil, fmt.Errorf("the namespace's process sent %d descriptors, not 2", len(fds))
	}
	return &namespace{user: os.NewFile(uintptr(fds[0]), "userns"), table: os.NewFile(uintptr(fds[1]), "binfmt_misc"), failed: r.Failed}, nil
}

func recvmsg(socket int, text, rights []byte) (n, rn, flags int, from unix.Sockaddr, err error) {
	for {
		n, rn, flags, from, err = unix.Recvmsg(socket, text, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			return n, rn, flags, from, err
		}
	}
}

func descriptors(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil, err
	}
	return unix.ParseUnixRights(&messages[0])
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
