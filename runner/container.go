package runner

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/logs"
	"github.com/gantry-build/gantry/runner/stream"
)

// container is one container in memory.
//
// Two locks: op is held over whole operations that must not interleave (start, rename, remove); mu
// only around fields. Stop and kill take no op, so that they work while something waits, and neither
// does the end of a run.
type container struct {
	id      string
	dir     string
	streams *stream.Streams
	log     *logs.Log
	op      sync.Mutex

	mu       sync.Mutex // guards what follows
	rec      Record
	run      *run          // nil when no process runs
	ending   *ending       // of the current or next run
	removed  chan struct{} // closed by removal
	backoff  *backoff
	restarts int // under way by hand, during which an end removes nothing
}

// restarting protects a container with --rm while it is restarted by hand.
func (c *container) restarting(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.restarts++
	} else {
		c.restarts--
	}
}

// run is one life of a container's process.
type run struct {
	task   client.Task
	io     *stream.Pipes
	health context.CancelFunc // nil without a health check
}

// ending is how and when a run ends. Its fields are set before done is closed.
type ending struct {
	done chan struct{}
	code int
}

func newEnding() *ending { return &ending{done: make(chan struct{})} }

func newContainer(dir string, rec Record) (*container, error) {
	c := &container{
		id: rec.ID, dir: dir, rec: rec,
		ending: newEnding(), removed: make(chan struct{}), backoff: &backoff{},
	}
	path := c.logPath()
	lc := rec.HostConfig.LogConfig
	if !logs.Kept(lc.Type, lc.Config) {
		path = ""
	}
	opts, err := logs.ParseOptions(lc.Type, lc.Config, logSource(rec))
	if err != nil {
		return nil, err
	}
	if c.log, err = logs.Open(path, opts); err != nil {
		return nil, err
	}
	c.streams = stream.New(c.log)
	return c, nil
}

// logSource is what a log may tell of its container.
func logSource(rec Record) logs.Source {
	return logs.Source{ID: rec.ID, Name: rec.Name, Image: rec.Config.Image, ImageID: rec.ImageID,
		Labels: rec.Config.Labels, Env: rec.Config.Env}
}

func (c *container) logPath() string { return filepath.Join(c.dir, c.id+"-json.log") }

func (c *container) record() Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

// update changes the record and writes it.
func (c *container) update(change func(*Record)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.rec)
	return c.save()
}

// current returns the run, nil when there is none.
func (c *container) current() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// running returns the run or Docker's error that there is none.
func (c *container) running() (*run, error) {
	if r := c.current(); r != nil {
		return r, nil
	}
	return nil, fault.Conflict("container %s is not running", c.id)
}

// release lets go of the process without ending it.
func (c *container) release() {
	c.backoff.cancel()
	c.streams.End()
	if r := c.current(); r != nil {
		r.io.Release()
	}
	c.streams.End() // the last piece of an unfinished line, and clients that came in between
}

// backoff spaces restarts: 100 ms, doubled by each short run up to a minute.
type backoff struct {
	mu    sync.Mutex
	wait  time.Duration
	timer *time.Timer
}

const (
	backoffMin  = 100 * time.Millisecond
	backoffMax  = time.Minute
	backoffGood = 10 * time.Second // a run this long starts the count anew
)

// next returns how long to wait after a run that lasted lived.
func (b *backoff) next(lived time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait == 0 || lived >= backoffGood {
		b.wait = backoffMin
	} else {
		b.wait = min(2*b.wait, backoffMax)
	}
	return b.wait
}

// after calls f once, later, unless cancelled.
func (b *backoff) after(d time.Duration, f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(d, f)
}

// cancel keeps a pending call from happening; false when none was pending.
func (b *backoff) cancel() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer == nil {
		return false
	}
	stopped := b.timer.Stop()
	b.timer = nil
	return stopped
}

// reset forgets short runs: a start by hand begins anew.
func (b *backoff) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wait = 0
}
