package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/runner/stream"
)

// found is what an earlier daemon left of a container.
type found struct {
	c    *container
	run  *run // nil when no process lives
	exit <-chan client.ExitStatus
	lost error // why it can't be told; a process may live

	died bool // a run ended that nobody has booked
	code int
	at   time.Time
}

// restore takes up everything that an earlier daemon left. The network is told who lives before any
// run ends or starts, as it asks.
func (m *Manager) restore(ctx context.Context) error {
	all, err := m.load(cache.WithNamespace(ctx))
	if err != nil {
		return err
	}
	results := make([]found, len(all))
	var g errgroup.Group
	g.SetLimit(8) // each asks a shim, which asks runc
	for i, c := range all {
		g.Go(func() error {
			results[i] = m.look(cache.WithNamespace(ctx), c)
			return nil
		})
	}
	_ = g.Wait()
	running := map[string][]string{}
	for _, f := range results {
		if f.run == nil && f.lost == nil {
			continue
		}
		for _, a := range f.c.record().Attachments {
			on := m.idOn(a.Network)
			running[on] = append(running[on], f.c.id)
		}
	}
	if err := m.o.Network.Restore(ctx, running); err != nil {
		return err
	}
	m.sweepPipes()
	m.subpaths().Sweep()
	m.restoreVolumes(results)
	for _, f := range results {
		m.takeUp(f)
	}
	m.introduceAll(results)
	m.watchOOM()
	return nil
}

// introduceAll tells the networks who lives, and opens the name servers again, whose sockets ended with the daemon
// before. All names are there before anyone is answered.
func (m *Manager) introduceAll(all []found) {
	for _, f := range all {
		if f.run != nil {
			m.announce(f.c.record())
		}
	}
	var g errgroup.Group
	g.SetLimit(32) // the kernel is waited for
	for _, f := range all {
		if f.run == nil {
			continue
		}
		g.Go(func() error {
			if err := m.introduce(f.c); err != nil {
				m.log.Warn("a container that lives can't be introduced to its networks", "container", f.c.id, "error", err)
			}
			return nil
		})
	}
	_ = g.Wait()
}

// restoreVolumes keeps mounted what the living containers use, and unmounts the rest.
func (m *Manager) restoreVolumes(all []found) {
	for _, f := range all {
		if f.run == nil && f.lost == nil {
			continue
		}
		if err := m.useVolumes(f.c.record()); err != nil {
			m.log.Warn("a container's volume can't be mounted any more", "container", f.c.id, "error", err)
		}
	}
	if err := m.volumes.Sweep(); err != nil {
		m.log.Warn("unmounting volumes that no container uses", "error", err)
	}
}

// load reads the records. A directory without one is half a create or half a removal, and goes, once
// all are read that may share a volume with it.
func (m *Manager) load(ctx context.Context) ([]*container, error) {
	entries, err := os.ReadDir(m.containersDir())
	if err != nil {
		return nil, err
	}
	var all []*container
	cutOff := map[string]Record{} // removals, by directory
	unread := 0
	for _, e := range entries {
		dir := filepath.Join(m.containersDir(), e.Name())
		rec, err := readRecord(dir)
		if errors.Is(err, os.ErrNotExist) || err == nil && rec.State.Removing {
			cutOff[dir] = rec
			continue
		}
		if err == nil {
			m.attachOld(&rec)
			var c *container
			if c, err = newContainer(dir, rec); err == nil {
				m.mu.Lock()
				m.byID[rec.ID], m.names[rec.Name] = c, rec.ID
				m.mu.Unlock()
				all = append(all, c)
				continue
			}
		}
		// One unreadable record must not keep all other containers down.
		unread++
		m.log.Error("container is left out: its record can't be read; remove its directory to forget it", "dir", dir, "error", err)
	}
	for dir, rec := range cutOff {
		m.log.Info("finishing a removal that was cut off", "container", filepath.Base(dir))
		// What can't be read may use any volume.
		if err := m.finishRemoval(ctx, dir, rec, unread == 0); err != nil {
			m.log.Error("finishing a removal", "container", filepath.Base(dir), "error", err)
		}
	}
	return all, m.dropOrphans(ctx)
}

// sweepPipes removes the FIFOs of exec processes: nobody can take those up again.
func (m *Manager) sweepPipes() {
	dirs, _ := os.ReadDir(m.fifoDir())
	for _, d := range dirs {
		if _, err := m.find(d.Name()); errdefs.IsNotFound(err) {
			_ = os.RemoveAll(filepath.Join(m.fifoDir(), d.Name()))
		}
	}
}

func (m *Manager) finishRemoval(ctx context.Context, dir string, rec Record, volumes bool) error {
	if err := m.removeTask(ctx, filepath.Base(dir)); err != nil {
		return err
	}
	if volumes && rec.HostConfig.AutoRemove {
		m.dropVolumes(rec)
	}
	return os.RemoveAll(dir)
}

// dropOrphans removes containerd's side of creates that never came to write their record.
func (m *Manager) dropOrphans(ctx context.Context) error {
	list, err := m.client.ContainerService().List(ctx)
	if err != nil {
		return err
	}
	for _, r := range list {
		_, ours := r.Labels["gantry.build/name"]
		_, err := os.Stat(filepath.Join(m.containersDir(), r.ID))
		if ours && errors.Is(err, os.ErrNotExist) {
			if err := m.removeTask(ctx, r.ID); err != nil {
				m.log.Error("removing half a container", "container", r.ID, "error", err)
			}
		}
	}
	return nil
}

// lookTimeout is how long a shim may take to tell about its container.
const lookTimeout = 10 * time.Second

// look finds out whether a container's process lives, and takes up its pipes if so. One of which that
// can't be told keeps no other from being taken up.
func (m *Manager) look(ctx context.Context, c *container) found {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	f := found{c: c, at: time.Now()}
	rec := c.record()
	cont, err := m.client.LoadContainer(ctx, c.id)
	if err == nil {
		err = m.lookTask(ctx, cont, &f)
	}
	if errdefs.IsNotFound(err) {
		f.died = rec.State.Running && !rec.State.Restarting
		f.code = exitUnknown
		if code, at, ok := m.store.Exit(c.id); ok && f.died {
			f.code, f.at = int(code), at
		} else if code, at, ok := rec.State.noted(); ok {
			f.code, f.at = code, at
		}
		return f
	}
	f.lost = err
	return f
}

func (m *Manager) lookTask(ctx context.Context, cont client.Container, f *found) (err error) {
	var pipes *stream.Pipes
	defer func() {
		if err != nil && pipes != nil {
			pipes.Release()
		}
	}()
	task, err := cont.Task(ctx, func(set *cio.FIFOSet) (cio.IO, error) {
		var err error
		pipes, err = stream.Open(filepath.Join(m.fifoDir(), f.c.id), set.Config, f.c.streams)
		if err != nil {
			return nil, err
		}
		return pipes, nil
	})
	if err != nil {
		return err
	}
	r := &run{task: task, io: pipes}
	st, err := task.Status(ctx)
	if err != nil {
		return err
	}
	switch st.Status {
	case client.Running, client.Paused, client.Pausing:
		f.run = r
		pipes.Started(task)
		f.exit, err = task.Wait(m.ctx)
		return err
	case client.Created: // the daemon died between create and start
		f.died, f.code = f.c.record().State.Running, exitUnknown
	default:
		f.died, f.code = true, int(st.ExitStatus)
		if !st.ExitTime.IsZero() {
			f.at = st.ExitTime
		}
		if err := f.c.noteEnd(f.code, f.at); err != nil {
			return err
		}
	}
	_, err = task.Delete(ctx, client.WithProcessKill)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return pipes.Close()
}

// takeUp brings a container's state in line with what was found.
func (m *Manager) takeUp(f found) {
	c := f.c
	switch {
	case f.lost != nil:
		m.lost(c, f.lost)
	case f.run != nil:
		c.mu.Lock()
		c.run = f.run
		st := &c.rec.State
		st.Running, st.Restarting, st.Pid = true, false, int(f.run.task.Pid())
		if st.StartedAt.IsZero() || st.StartedAt.Before(st.FinishedAt) { // started, but not booked
			st.StartedAt = time.Now().UTC()
		}
		err := c.save()
		c.mu.Unlock()
		if err != nil {
			m.log.Error("writing the record of a container taken up", "container", c.id, "error", err)
		}
		m.background(func() { m.watch(c, f.run, f.exit) })
		m.startHealth(c, f.run)
	case f.died:
		_ = os.RemoveAll(filepath.Join(m.fifoDir(), c.id))
		m.ended(c, &run{}, f.code, f.at)
	default:
		m.bootPolicy(c)
	}
}

// lost books a container that can't be taken up. It is not started again, as its process may live; its
// removal kills that.
func (m *Manager) lost(c *container, cause error) {
	m.log.Error("a container can't be taken up; remove it with rm -f", "container", c.id, "error", cause)
	err := c.update(func(r *Record) {
		r.State.Running, r.State.Restarting, r.State.Paused, r.State.Pid = false, false, false, 0
		r.State.Error = fmt.Sprintf("the daemon could not take the container up: %v", cause)
	})
	if err != nil {
		m.log.Error("writing the record of a container that can't be taken up", "container", c.id, "error", err)
	}
}

// bootPolicy starts a container that did not run when the last daemon ended, if its policy says so:
// always means also after a stop by hand, once the daemon is a new one. A daemon that went because it
// was idle and came back with the next command is no new one to anybody.
func (m *Manager) bootPolicy(c *container) {
	rec := c.record()
	p := rec.HostConfig.RestartPolicy.Name
	wanted := p == "always" && !(m.o.Resumed && rec.ManuallyStopped) || p == "unless-stopped" && !rec.ManuallyStopped ||
		rec.State.Restarting
	if !wanted || rec.State.StartedAt.IsZero() {
		if rec.HostConfig.AutoRemove && rec.State.Status() == "exited" {
			m.background(func() { m.autoRemove(c) })
		}
		return
	}
	err := c.update(func(r *Record) { r.State.Running, r.State.Restarting, r.ManuallyStopped = true, true, false })
	if err != nil {
		m.log.Error("writing the record of a container to be restarted", "container", c.id, "error", err)
	}
	m.restartLater(c, 0)
}
