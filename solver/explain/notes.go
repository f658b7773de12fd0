package explain

import (
	"context"
	"maps"
	"slices"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
)

// OptKey is the frontend attribute of a build that wants to be explained. It ends at the daemon: no
// frontend sees it.
const OptKey = "gantry-explain"

const (
	keptBuilds = 16   // of which it is known what has changed
	keptSteps  = 1024 // of which it is known how they run
)

// Note is what the daemon knows of a build besides its record in the history.
type Note struct {
	// Changed are the files that differ from what the build before has read, by the name of the local
	// directory. A directory that no build has read before, or that another machine has, is not in it.
	Changed map[string][]string `json:"changed"`
	// How tells what runs the process of a step: "native", or its emulator.
	How map[digest.Digest]string `json:"how"`
}

// Notes are the daemon's, of the last builds. They are safe for concurrent use.
type Notes struct {
	mu       sync.Mutex
	sessions map[string]string // refs of running builds that have asked, by session
	changed  map[string]map[string][]string
	builds   []string // refs in changed, the oldest first
	how      map[digest.Digest]string
	steps    []digest.Digest // in how, the oldest first
}

// NewNotes returns empty ones.
func NewNotes() *Notes {
	return &Notes{sessions: map[string]string{}, changed: map[string]map[string][]string{}, how: map[digest.Digest]string{}}
}

// Of returns the note of a build that has asked with OptKey.
func (n *Notes) Of(ref string) Note {
	n.mu.Lock()
	defer n.mu.Unlock()
	return Note{Changed: maps.Clone(n.changed[ref]), How: maps.Clone(n.how)} // builds go on writing
}

// Asked is a server's interceptor: it notes the builds that want to know, before their attributes go on to
// the frontend.
func (n *Notes) Asked(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if inner, ok := req.(*gatewayapi.SolveRequest); ok {
		delete(inner.FrontendOpt, OptKey)
	}
	solve, ok := req.(*controlapi.SolveRequest)
	if !ok {
		return next(ctx, req)
	}
	_, ok = solve.FrontendAttrs[OptKey]
	if !ok || solve.Session == "" {
		return next(ctx, req)
	}
	delete(solve.FrontendAttrs, OptKey)
	n.begin(solve.Session, solve.Ref)
	defer n.end(solve.Session)
	return next(ctx, req)
}

func (n *Notes) begin(session, ref string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sessions[session] = ref
	if n.changed[ref] == nil {
		n.changed[ref] = map[string][]string{}
		n.builds = append(n.builds, ref)
	}
	if len(n.builds) > keptBuilds {
		delete(n.changed, n.builds[0])
		n.builds = slices.Delete(n.builds, 0, 1)
	}
}

func (n *Notes) end(session string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sessions, session)
}

// AskedBy returns the build of one of the sessions that has asked.
func (n *Notes) AskedBy(g session.Group) (ref string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range session.AllSessionIDs(g) {
		if ref, ok = n.sessions[id]; ok {
			return ref, true
		}
	}
	return "", false
}

// Changed notes what a build that has asked finds changed in a local directory; no files are none.
func (n *Notes) Changed(ref, name string, files []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if of := n.changed[ref]; of != nil {
		of[name] = files
	}
}

// Runs notes how a step's process runs, for whoever asks.
func (n *Notes) Runs(step digest.Digest, how string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.how[step]; !ok {
		n.steps = append(n.steps, step)
	}
	n.how[step] = how
	if len(n.steps) > keptSteps {
		delete(n.how, n.steps[0])
		n.steps = slices.Delete(n.steps, 0, 1)
	}
}
