package qemu

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNoNamespace says that this machine has no user namespace of ours for emulated programs: they run
// outside of any, or not at all.
var ErrNoNamespace = errors.New("emulated programs have no user namespace of their own here")

// NewNetwork makes a network namespace inside the user namespace that emulated programs join. They have
// in it the rights that native programs have in any: raw sockets, ports below 1024, its settings. Nothing
// but loopback is in it, and it lives as long as the file, or a program in it. It waits for the machine's
// first answer; its error is ErrNoNamespace or that the kernel made none.
func (m *Machine) NewNetwork() (*os.File, error) {
	<-m.done
	if m.ns == nil || m.ns.maker == nil {
		return nil, ErrNoNamespace
	}
	return m.ns.maker.network()
}

// maker is a process that stays in the user namespace, as only a process there can make other namespaces
// below it, and no thread of a Go program can join one. It is a page of memory and no file system: a daemon
// that dies closes the socket, and that ends it.
type maker struct {
	mu     sync.Mutex
	socket int
	cmd    *exec.Cmd
	stderr *bytes.Buffer // the process's, to be read after its end
	err    error         // why it is of no use any more
}

// network asks for a namespace and takes it from the process before it makes another.
func (m *maker) network() (*os.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	answer, err := m.ask()
	if err != nil {
		_ = m.end()
		m.err = fmt.Errorf("the process that makes network namespaces: %w %s", err, strings.TrimSpace(m.stderr.String()))
		return nil, m.err
	}
	if answer < 0 {
		return nil, fmt.Errorf("making a network namespace: %w", unix.Errno(-answer))
	}
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", m.cmd.Process.Pid))
}

// ask is one exchange with makerCode.
func (m *maker) ask() (answer int64, err error) {
	if _, err := unix.SendmsgN(m.socket, []byte{1}, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return 0, err
	}
	b := make([]byte, 8)
	n, _, _, _, err := recvmsg(m.socket, b, nil)
	if err != nil {
		return 0, err
	}
	if n != len(b) {
		return 0, errors.New("it has ended")
	}
	return int64(binary.NativeEndian.Uint64(b)), nil
}

// Close ends the process.
func (m *maker) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil
	}
	m.err = os.ErrClosed
	return m.end()
}

func (m *maker) end() error { return errors.Join(unix.Close(m.socket), m.cmd.Wait()) }

// makerCode is a program without libraries: for each byte that it reads from childSocket it calls
// unshare(CLONE_NEWNET), and answers the result in eight bytes; when there is nothing to read, it ends.
var makerCode = map[string]string{
	"amd64": `4883ec10 bf03000000 4889e6 ba01000000 31c0 0f05 48ffc8 7526 bf00000040 b810010000 0f05 48890424
		bf03000000 4889e6 ba08000000 b801000000 0f05 ebc4 31ff b83c000000 0f05`,
	"arm64": `ff4300d1 600080d2 e1030091 220080d2 e80780d2 010000d4 1f0400f1 61010054 0000a8d2 280c80d2 010000d4
		e00300f9 600080d2 e1030091 020180d2 080880d2 010000d4 f0ffff17 000080d2 a80b80d2 010000d4`,
	"arm": `08d04de2 0040a0e3 0300a0e3 0d10a0e1 0120a0e3 0370a0e3 000000ef 010050e3 0b00001a 0101a0e3 30709fe5
		000000ef c03fa0e1 00008de5 04308de5 0300a0e3 0d10a0e1 0820a0e3 0470a0e3 000000ef ecffffea 0000a0e3
		0170a0e3 000000ef 51010000`,
}

// makerProgram is the executable of makerCode; nil for an architecture that has none.
func makerProgram(arch string) []byte {
	code, err := hex.DecodeString(strings.Join(strings.Fields(makerCode[arch]), ""))
	if err != nil || len(code) == 0 {
		return nil
	}
	return program(arch, code)
}

// stay makes this process, the child in the user namespace, the maker. It returns only where that is not
// possible, with the reason, and the machine does without.
func stay() error {
	code := makerProgram(runtime.GOARCH)
	if code == nil {
		return fmt.Errorf("no program for %s", runtime.GOARCH)
	}
	if err := leaveFiles("netns", code); err != nil {
		return err
	}
	for std := range childSocket { // the parent waits for the end of our stderr
		unix.CloseOnExec(std)
	}
	return unix.Exec("/netns", []string{"gantry-netns"}, nil)
}

// leaveFiles leaves the process one file and no other mount: a file system that the host unmounts later
// must not live on in this process's mount namespace.
func leaveFiles(name string, data []byte) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the host's mounts: %w", err)
	}
	const dir = "/proc" // there is one everywhere
	if err := unix.Mount("gantry", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k,mode=700"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	if err := os.WriteFile(dir+"/"+name, data, 0o700); err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return unix.Unmount(".", unix.MNT_DETACH)
}
