package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ExecEmulated runs a command of the host, with this process's standard streams
// and environment, in a user namespace where the programs of every emulator's
// architecture start. It is for tools that put foreign root file systems together;
// they own all ids there but cannot make device nodes. It returns the command's
// exit code, 128 plus the signal's number when a signal ended it; the error says
// that it could not be started.
//
// Where the kernel has no private tables, the command runs outside of any namespace,
// and what the host's own table lacks is registered there while it runs, if the policy
// allows it. Cancelling ctx sends SIGTERM, and ten seconds later SIGKILL.
func ExecEmulated(ctx context.Context, o Options, argv []string) (exitCode int, err error) {
	if len(argv) == 0 {
		return 0, errors.New("no command to run; name one after --")
	}
	if o.Policy == Off {
		return 0, fmt.Errorf("running %s with emulators: emulation is off; allow it with emulation = \"auto\" in the configuration",
			argv[0])
	}
	k := linux{}
	f := found{native: k.native(), emulators: o.Emulators, broken: make(map[string]string)}
	f.native = append(f.native, compat(ctx, k, f.native)...)
	entries := f.registrations()
	for _, why := range f.broken {
		return 0, errors.New(why)
	}
	if !privateTables() && o.Policy != Private {
		return execShared(ctx, o, k, entries, argv)
	}
	code, err := withModule(func() (int, error) { return execInside(ctx, entries, argv) })
	if err == nil {
		return code, nil
	}
	host, herr := k.entries()
	if herr != nil || !serves(host, entries) {
		return 0, fmt.Errorf("running %s with emulators: %w", argv[0], err)
	}
	o.log().Warn("using the host's own binfmt_misc table", "reason", err)
	return run(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// execShared registers in the machine's table what nobody else has, while the command runs.
func execShared(ctx context.Context, o Options, k kernel, entries []registration, argv []string) (code int, err error) {
	owner, err := commandOwner()
	if err != nil {
		return 0, err
	}
	o.Mount = ""
	o.Owner = strings.TrimPrefix(owner, ownPrefix)
	s, err := o.share(k)
	if err != nil {
		return 0, fmt.Errorf("running %s with emulators: %w", argv[0], err)
	}
	s.leave()
	defer func() { err = errors.Join(err, s.close()) }()
	host, err := s.others()
	if err != nil {
		return 0, err
	}
	for _, r := range entries {
		t, ok := targetFor(r.Arch)
		if !ok || slices.ContainsFunc(host, func(e entry) bool { return e.starts(t) }) {
			continue
		}
		if err := s.ensure(t, o.Emulators[r.Arch].Path); err != nil {
			return 0, fmt.Errorf("running %s with emulators: %w", argv[0], err)
		}
	}
	return run(exec.CommandContext(ctx, argv[0], argv[1:]...))
}

// execInside has an error only as long as the command has not begun.
func execInside(ctx context.Context, entries []registration, argv []string) (int, error) {
	cmd, err := inside(ctx, request{Task: taskExec, Entries: entries, Argv: argv})
	if err != nil {
		return 0, err
	}
	prepare(cmd)
	n, err := begin(cmd)
	if err != nil {
		return 0, err
	}
	defer unix.Close(n.socket)
	if n.err != nil {
		_ = cmd.Wait() // its own words are in n.err
		return 0, n.err
	}
	defer n.Close()
	code, err := exitCode(cmd.Wait())
	for arch, why := range n.failed { // the command has not begun
		return 0, fmt.Errorf("%s was not accepted by the kernel: %s", Program(arch), why)
	}
	return code, err
}

func run(cmd *exec.Cmd) (int, error) {
	prepare(cmd)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return exitCode(cmd.Wait())
}

func prepare(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// serves tells whether the host's table starts the programs of every entry.
func serves(host []entry, entries []registration) bool {
	for _, r := range entries {
		t, ok := targetFor(r.Arch)
		if !ok || !slices.ContainsFunc(host, func(e entry) bool { return e.starts(t) }) {
			return false
		}
	}
	return len(entries) > 0
}
