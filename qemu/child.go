package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// childVar marks the process that works inside the new user namespace, and
// carries its request.
const childVar = "_GANTRY_QEMU_CHILD"

const (
	taskTable = "table" // make the table, send it to the parent, become the maker of network namespaces
	taskExec  = "exec"  // make the table, become the command
)

// The steps of making a table, as an error names them.
const (
	stepClone    = "user namespace"
	stepOpen     = "fsopen binfmt_misc"
	stepCreate   = "create binfmt_misc"
	stepMount    = "mount binfmt_misc"
	stepRegister = "register"
	stepSend     = "send"
	stepExec     = "exec"
)

// childSocket is where the child, and makerCode, find their end of the socket.
const childSocket = 3

type request struct {
	Task    string
	Entries []registration
	Argv    []string
}

// reply goes from the child to the parent, with the descriptors of the namespace
// and the table when Step is empty.
type reply struct {
	Step   string            `json:",omitempty"` // the step that failed
	Errno  unix.Errno        `json:",omitempty"`
	Failed map[string]string `json:",omitempty"` // entries not taken, by architecture
}

// MaybeChild does the work of the process that this package starts inside a new
// user namespace, and does not return, when this process is that one. A main
// calls it before anything else.
func MaybeChild() {
	text, ok := os.LookupEnv(childVar)
	if !ok {
		return
	}
	// Not for the command's children, nor for a gantry among them.
	_ = os.Unsetenv(childVar)
	var r request
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		fmt.Fprintf(os.Stderr, "gantry: %s is for gantry's own use: %v\n", childVar, err)
		os.Exit(125)
	}
	os.Exit(child(r))
}

func child(r request) int {
	t, rep := makeTable(r.Entries)
	table := t.fd
	if r.Task == taskExec && rep.Step == "" {
		if err := attach(table); err != nil {
			rep.fail(stepMount, err)
		}
	}
	if err := send(rep, table); err != nil {
		fmt.Fprintf(os.Stderr, "gantry: qemu: answering the parent: %v\n", err)
		return 125
	}
	switch {
	case rep.Step != "":
		return 0
	case r.Task == taskTable:
		fmt.Fprintf(os.Stderr, "no network namespaces for emulated programs: %v\n", stay())
		return 125
	case len(rep.Failed) > 0:
		return 0
	}
	unix.Close(childSocket)
	return become(r.Argv)
}

// makeTable makes the user namespace's own table, attached nowhere.
func makeTable(entries []registration) (t mounted, r reply) {
	t, step, err := openTable()
	if err != nil {
		return t, *r.fail(step, err)
	}
	r.Failed = make(map[string]string)
	for _, e := range entries {
		if err := t.register(e.Line); err != nil {
			r.Failed[e.Arch] = err.Error()
		}
	}
	return t, r
}

// attach mounts the table at its usual place in the child's own mount namespace,
// which keeps it for all descendants and shows it to those that look.
func attach(table int) error {
	return unix.MoveMount(table, "", unix.AT_FDCWD, hostTable, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func (r *reply) fail(step string, err error) *reply {
	r.Step = step
	if errno, ok := err.(unix.Errno); ok {
		r.Errno = errno
	}
	return r
}

func send(r reply, table int) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var rights []byte
	if r.Step == "" {
		user, err := unix.Open("/proc/self/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(user)
		rights = unix.UnixRights(user, table)
	}
	return unix.Sendmsg(childSocket, text, rights, nil, 0)
}

// become replaces the process by a command found in PATH.
func become(argv []string) int {
	path, err := exec.LookPath(argv[0])
	if err == nil {
		err = unix.Exec(path, argv, os.Environ())
	}
	fmt.Fprintf(os.Stderr, "gantry: %v\n", err)
	return 127
}
