// Command init is process 1 of a container that was asked for with --init: it starts the command, passes signals on to
// it, collects the processes that lose their parent, and ends as the command does. It is what tini is for Docker, and is
// mounted at the same place, /sbin/docker-init.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	args := os.Args[1:]
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("docker-init version 1.0.0")
		return
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: docker-init -- COMMAND [ARG...]")
		os.Exit(1)
	}
	os.Exit(run(args))
}

// run returns the command's exit code, 128 and the signal's number when it was killed.
func run(args []string) int {
	signals := make(chan os.Signal, 64) // before the command is there, so that none is lost
	signal.Notify(signals)
	path, err := exec.LookPath(args[0])
	if err != nil {
		return failed(args[0], err)
	}
	_, err = unix.IoctlGetTermios(0, unix.TCGETS)
	child, err := syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		// A process group of its own, so that a terminal's signals reach it once; it has the terminal, if there is one.
		Sys: &syscall.SysProcAttr{Setpgid: true, Foreground: err == nil, Ctty: 0},
	})
	if err != nil {
		return failed(args[0], err)
	}
	for s := range signals {
		switch s {
		case syscall.SIGCHLD:
			if code, ended := collect(child); ended {
				return code
			}
		case syscall.SIGURG, syscall.SIGTTIN, syscall.SIGTTOU: // the first is Go's own; the others are about reading the terminal
		default:
			_ = syscall.Kill(child, s.(syscall.Signal)) // it may have ended
		}
	}
	return 0
}

// collect takes all processes that have ended, and tells how the command did if it is one of them.
func collect(child int) (code int, ended bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid <= 0:
			return code, ended
		case pid != child:
			continue
		}
		ended, code = true, status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
	}
}

// failed tells why a command could not be started, with the exit code of a shell.
func failed(name string, err error) int {
	fmt.Fprintf(os.Stderr, "docker-init: exec %s failed: %v\n", name, err)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, os.ErrPermission) {
		return 126
	}
	return 127
}
