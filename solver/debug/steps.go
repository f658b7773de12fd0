// Package debug keeps the steps of builds that have failed, as they left their file systems, and runs shells in
// their place.
//
// A step is watched from below, as BuildKit runs it ([Steps.Watch]); one that fails is kept for a while
// ([Steps.List]), and [Steps.Run] runs a process with its mounts, environment and architecture. [Register] and
// [Open] are the two ends of a gRPC service that carries such a shell over the socket of BuildKit's API.
package debug

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/util/disk"
)

const (
	// keptSteps bounds what failures cost in disk space: a file system each, of which only what the
	// step has written is not in the build cache anyway.
	keptSteps = 16
	// keptFor is the time from a failure to the one who looks into it.
	keptFor = time.Hour
	// keptFree is the share of the disk below which nothing is kept: a step that failed for want of
	// space would go on holding it.
	keptFree = 20
)

// Step is a step that ended badly and is kept for a while, as it left its file system.
type Step struct {
	ID       string    `json:"id"`
	Builds   []string  `json:"builds"` // the builds that it was a part of, as the history names them
	Name     string    `json:"name"`   // as the progress shows it
	Args     []string  `json:"args"`
	Platform string    `json:"platform"`
	Exit     int       `json:"exit"` // -1 when the process has not even started
	Time     time.Time `json:"time"`
	Secrets  []string  `json:"secrets,omitempty"` // IDs, of files and of variables
	SSH      []string  `json:"ssh,omitempty"`     // IDs of agents
}

// kept is a failed step with what is needed to run a process in its place.
type kept struct {
	Step
	Op
	// caches are the IDs of the layers behind cache mounts that began as something else
	caches map[int]string
	refs   map[int]bkcache.ImmutableRef // by the index of the mount; guarded by Steps.mu
}

// Steps are the kept ones. They are safe for concurrent use.
type Steps struct {
	root string // on the disk that they fill
	now  func() time.Time
	used func(string) (disk.DiskStat, error)

	ctx context.Context // ends the shells
	end context.CancelFunc
	wg  sync.WaitGroup // shells, and watch

	mu     sync.Mutex
	steps  []*kept             // the newest last
	builds map[string][]string // refs of running builds, by session
	closed bool
}

// New returns none. root is a directory on the disk that kept steps fill: below a twentieth of it free they
// are let go. Close them.
func New(root string) *Steps {
	f := &Steps{root: root, now: time.Now, used: disk.GetDiskStat, builds: map[string][]string{}}
	f.ctx, f.end = context.WithCancel(context.Background())
	f.wg.Go(f.watch)
	return f
}

// End ends the shells, which a server that stops waits for.
func (f *Steps) End() { f.end() }

// Close ends the shells and releases every step, for good.
func (f *Steps) Close() {
	f.end()
	f.wg.Wait()
}

// List returns the kept steps of the build whose ID begins with build, or of all builds when build is empty,
// the newest first.
func (f *Steps) List(build string) (out []Step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	for _, k := range slices.Backward(f.steps) {
		if build == "" || k.ID == build || k.of(build) {
			step := k.Step
			step.Builds = slices.Clone(k.Builds)
			out = append(out, step)
		}
	}
	return out
}

// of tells that the step was a part of the build whose ID begins with build.
func (k *kept) of(build string) bool {
	return slices.ContainsFunc(k.Builds, func(ref string) bool { return strings.HasPrefix(ref, build) })
}

// keep adds a step whose file systems follow, with save. It reports false where there is no room.
func (f *Steps) keep(k *kept, sessions []string) bool {
	if s, err := f.used(f.root); err == nil && s.Free < s.Total/keptFree {
		f.release()
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	k.Time, k.refs = f.now(), map[int]bkcache.ImmutableRef{}
	for _, id := range sessions {
		for _, ref := range f.builds[id] {
			if !slices.Contains(k.Builds, ref) {
				k.Builds = append(k.Builds, ref)
			}
		}
	}
	f.steps = append(f.steps, k)
	if over := len(f.steps) - keptSteps; over > 0 {
		f.drop(over)
	}
	return true
}

// save keeps ref as what mount i of the step holds. A step that has been dropped meanwhile gets nothing.
func (f *Steps) save(k *kept, i int, ref bkcache.ImmutableRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.steps, k) {
		return
	}
	if old, ok := k.refs[i]; ok {
		letGo(old)
	}
	k.refs[i] = ref.Clone()
}

// take finds a kept step and gives the caller references of its own. leave releases them.
func (f *Steps) take(id string) (_ *kept, refs map[int]bkcache.ImmutableRef, leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	at := slices.IndexFunc(f.steps, func(k *kept) bool { return k.ID == id })
	if at < 0 || f.closed {
		return nil, nil, nil, errdefs.ErrNotFound.WithMessage(
			fmt.Sprintf("no failed step %s is kept; gantry debug ls lists those that are", id))
	}
	refs = map[int]bkcache.ImmutableRef{}
	for i, ref := range f.steps[at].refs {
		refs[i] = ref.Clone()
	}
	f.wg.Add(1)
	leave = func() {
		for _, ref := range refs {
			letGo(ref)
		}
		f.wg.Done()
	}
	return f.steps[at], refs, leave, nil
}

// expire drops what is older than keptFor. f.mu is held.
func (f *Steps) expire() {
	n := 0
	for n < len(f.steps) && f.now().Sub(f.steps[n].Time) > keptFor {
		n++
	}
	f.drop(n)
}

// drop releases the n oldest steps. f.mu is held.
func (f *Steps) drop(n int) {
	for _, k := range f.steps[:n] {
		for _, ref := range k.refs {
			letGo(ref)
		}
	}
	f.steps = slices.Delete(f.steps, 0, n)
}

// release drops every step, so that what only they hold can be collected.
func (f *Steps) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(len(f.steps))
}

// count is the number of kept steps.
func (f *Steps) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	return len(f.steps)
}

// watch lets go of steps when their time has come, and in the end of all of them.
func (f *Steps) watch() {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-f.ctx.Done():
			f.mu.Lock()
			f.closed = true
			f.drop(len(f.steps))
			f.mu.Unlock()
			return
		case <-tick.C:
			f.count()
		}
	}
}

// letGo releases a reference; a failure leaves a record that the next start of BuildKit removes.
func letGo(ref bkcache.Ref) {
	if err := ref.Release(context.Background()); err != nil {
		slog.Warn("a kept step's file system could not be released", "ref", ref.ID(), "error", err)
	}
}
