package thin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	moby "github.com/moby/moby/client"

	"github.com/gantry-build/gantry/internal/state"
)

// startLock is held by who starts a daemon.
const startLock = "start.lock"

// startTimeout is how long a CLI waits for a daemon that someone is starting.
const startTimeout = 30 * time.Second

// Connect makes sure that a daemon answers on the socket, starting one when none does.
func (p *Place) Connect(ctx context.Context) error {
	if p.Answers() {
		return nil
	}
	unlock, err := p.starter(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for end := time.Now().Add(startTimeout); ; {
		if p.Answers() { // another one has started it while we waited
			return nil
		}
		err := p.start(ctx)
		// The root may belong to a daemon that is ending, or that is on its way.
		if err == nil {
			return nil
		}
		if !strings.Contains(err.Error(), state.ErrInUse.Error()) || time.Now().After(end) {
			p.tidy()
			return err
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Answers tells whether a daemon does.
func (p *Place) Answers() bool {
	c, err := net.DialTimeout("unix", p.Socket(), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// starter waits for its turn to start a daemon: of ten CLIs one starts, the others find it running.
func (p *Place) starter(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(p.State(), 0o711); err != nil {
		return nil, fmt.Errorf("no daemon answers at %s, and none can be started: %w%s", p.Socket(), err, AsRoot())
	}
	unlock, err = state.LockContext(ctx, filepath.Join(p.State(), startLock)) // the daemon takes it along when it ends
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, os.ErrNotExist): // and the directory with it
		return p.starter(ctx)
	case err != nil:
		return nil, fmt.Errorf("no daemon answers at %s, and none can be started: %w%s", p.Socket(), err, AsRoot())
	}
	return unlock, nil
}

// tidy takes away what starter has made, when it is all that is there: no daemon will.
func (p *Place) tidy() {
	if all, err := os.ReadDir(p.State()); err == nil && len(all) == 1 {
		_ = os.RemoveAll(filepath.Join(p.State(), startLock))
		_ = os.Remove(p.State())
	}
}

// AsRoot is the end of an error that root would not have had.
func AsRoot() string {
	if os.Getuid() == 0 {
		return ""
	}
	return "; run it as root (sudo gantry ...)"
}

// start runs `gantry daemon` in the background and returns when it is ready, or with the cause of
// its failure, which comes through a pipe.
func (p *Place) start(ctx context.Context) error {
	engine, err := p.engine()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(engine, "daemon", "--auto", "--root", p.Root(), "--socket", p.Socket())
	if p.config != "" {
		cmd.Args = append(cmd.Args, "--config", p.Config())
	}
	if p.debug {
		cmd.Args = append(cmd.Args, "--debug")
	}
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("starting the daemon: %w", err)
	}
	w.Close()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	said := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, 64<<10))
		said <- b
	}()
	select {
	case b := <-said:
		if string(b) == ReadyWord {
			return nil
		}
		if msg := bytes.TrimSpace(b); len(msg) > 0 {
			return fmt.Errorf("the daemon did not start: %s", msg)
		}
		return fmt.Errorf("the daemon did not start: %w; see %s", <-exited, p.LogFile())
	case <-time.After(startTimeout):
		return fmt.Errorf("the daemon is not ready after %v; see %s", startTimeout, p.LogFile())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ReadyWord is what a daemon says on its pipe when it answers.
const ReadyWord = "ready\n"

// LogFile is what an auto-started daemon writes.
func (p *Place) LogFile() string { return filepath.Join(p.Root(), "daemon.log") }

// API returns a client of the Engine API.
func (p *Place) API() (*moby.Client, error) {
	return moby.New(moby.WithHost("unix://" + p.Socket()))
}

// ErrNoDaemon says that nobody answers.
var ErrNoDaemon = errors.New("no daemon is running")
