package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/moby/client/pkg/stringid"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Step is what happens to one blob, in Docker's words. Current and Total are bytes; both are 0 when there is
// nothing to count.
type Step struct {
	ID, Status     string
	Current, Total int64
}

// Progress is told of each blob. It is not called by two goroutines at once.
type Progress func(Step)

// tick is how often bytes are counted.
const tick = 100 * time.Millisecond

// watcher tells of the blobs that pass it, until it is stopped.
type watcher struct {
	tell Progress
	look func(ctx context.Context, d ocispec.Descriptor) Step // a status of "": nothing to tell yet

	mu   sync.Mutex
	open []ocispec.Descriptor
	last map[digest.Digest]Step
	end  context.CancelFunc
	done chan struct{}
}

// final are the words after which nothing more is to be told of a blob.
var final = map[string]bool{"Download complete": true, "Already exists": true, "Pushed": true, "Layer already exists": true}

// watch starts to tell. A nil tell is told nothing.
func watch(ctx context.Context, tell Progress, look func(context.Context, ocispec.Descriptor) Step) *watcher {
	ctx, end := context.WithCancel(ctx)
	if tell == nil {
		tell = func(Step) {}
	}
	w := &watcher{tell: tell, look: look, last: map[digest.Digest]Step{}, end: end, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		t := time.NewTicker(tick)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				w.round(context.WithoutCancel(ctx))
				return
			case <-t.C:
				w.round(ctx)
			}
		}
	}()
	return w
}

// stop tells the last state of each blob, and returns when nothing more is told.
func (w *watcher) stop() {
	w.end()
	<-w.done
}

// handler announces each layer that passes it by a word, and watches it from then on.
func (w *watcher) handler(word string) images.Handler {
	return images.HandlerFunc(func(_ context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if !images.IsLayerType(d.MediaType) && !images.IsConfigType(d.MediaType) {
			return nil, nil
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.last[d.Digest]; ok {
			return nil, nil
		}
		w.last[d.Digest] = Step{}
		w.open = append(w.open, d)
		if images.IsLayerType(d.MediaType) {
			w.tell(Step{ID: stringid.TruncateID(d.Digest.String()), Status: word})
		}
		return nil, nil
	})
}

// say tells of all that were watched, and are layers.
func (w *watcher) say(word string, layers []ocispec.Descriptor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range layers {
		if _, ok := w.last[d.Digest]; ok {
			w.tell(Step{ID: stringid.TruncateID(d.Digest.String()), Status: word})
		}
	}
}

func (w *watcher) round(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var open []ocispec.Descriptor
	for _, d := range w.open {
		s := w.look(ctx, d)
		if !final[s.Status] {
			open = append(open, d)
		}
		if s.Status == "" || s == w.last[d.Digest] {
			continue
		}
		w.last[d.Digest] = s
		s.ID = stringid.TruncateID(d.Digest.String())
		w.tell(s)
	}
	w.open = open
}

// arriving tells how much of a blob has come from a registry since began.
func arriving(cs content.Store, began time.Time) func(context.Context, ocispec.Descriptor) Step {
	return func(ctx context.Context, d ocispec.Descriptor) Step {
		if info, err := cs.Info(ctx, d.Digest); err == nil {
			if info.CreatedAt.Before(began) {
				return Step{Status: "Already exists"}
			}
			return Step{Status: "Download complete"}
		}
		st, err := cs.Status(ctx, remotes.MakeRefKey(ctx, d))
		if err != nil || st.Offset == 0 {
			return Step{}
		}
		return Step{Status: "Downloading", Current: st.Offset, Total: d.Size}
	}
}

// leaving tells how much of a blob a registry has got.
func leaving(tracker docker.StatusTracker) func(context.Context, ocispec.Descriptor) Step {
	return func(ctx context.Context, d ocispec.Descriptor) Step {
		st, err := tracker.GetStatus(remotes.MakeRefKey(ctx, d))
		switch {
		case err != nil:
			return Step{}
		case st.Exists, st.MountedFrom != "":
			return Step{Status: "Layer already exists"}
		case st.Committed && st.Offset >= st.Total:
			return Step{Status: "Pushed"}
		case st.Offset == 0:
			return Step{}
		}
		return Step{Status: "Pushing", Current: st.Offset, Total: st.Total}
	}
}
