package command

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gantry-build/gantry/internal/resident"
	"github.com/gantry-build/gantry/internal/state"
	"github.com/gantry-build/gantry/runner/cluster"
)

// A daemon that ends as it is idle leaves a mark with the boot that it ran in, so that the next one,
// which the next command starts, knows that no user has meant to start anything anew.

func idleMark(at *place) string { return filepath.Join(at.Root(), "idle") }

func bootID() ([]byte, error) { return os.ReadFile("/proc/sys/kernel/random/boot_id") }

func markIdle(at *place) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	return state.Write(idleMark(at), boot, 0o600)
}

// tookIdleMark tells whether the daemon before has left its mark in this boot, and removes it.
func tookIdleMark(at *place) bool {
	mark, err := os.ReadFile(idleMark(at))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	boot, berr := bootID()
	return errors.Join(err, berr, os.Remove(idleMark(at))) == nil && string(mark) == string(boot)
}

// rest is how long nobody has to use a daemon before it gives back the memory that it does not need while it waits.
const rest = 10 * time.Second

func (d *daemon) release() (when time.Time) {
	when = time.Now()
	if err := resident.Release(); err != nil {
		d.log.Debug("giving back memory", "error", err)
	}
	return when
}

// causeIdle is why a daemon ends that has nothing to look after.
const causeIdle = "idle"

// wait returns why the daemon should end: a signal, a request, or, when idle is set, that long
// without a connection, a running container, a cluster and a failed step that someone may want to look into.
func (d *daemon) wait(ctx context.Context, idle time.Duration) string {
	every := rest
	if idle > 0 {
		every = min(every, max(idle/10, 50*time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := time.Now()
	released := d.release() // what the start has touched
	for {
		if used := d.server.Used(); used.After(released) && time.Since(used) >= rest {
			released = d.release()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx).Error()
		case <-d.stop:
			return "asked to"
		case now := <-tick.C:
			if idle == 0 {
				continue
			}
			if used := d.server.Used(); used.After(last) {
				last = used
			}
			if d.runner.Running() > 0 || len(d.solver.Failed("")) > 0 || d.cluster.Status().State != cluster.Inactive {
				last = now
			}
			if now.Sub(last) > idle {
				return causeIdle
			}
		}
	}
}
