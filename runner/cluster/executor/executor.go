// Package executor runs a cluster's tasks on this node, as containers of the runner. It implements SwarmKit's exec.Executor and
// exec.Controller (agent/exec); a task's container outlives the daemon and is found again by its name.
package executor

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/moby/swarmkit/v2/agent"
	"github.com/moby/swarmkit/v2/agent/exec"
	"github.com/moby/swarmkit/v2/api"
	"github.com/moby/swarmkit/v2/template"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/runner"
)

// Options say what an Executor works with. All are needed.
type Options struct {
	Runner *runner.Manager
	// Describe tells what this machine is and has.
	Describe func() *api.NodeDescription
	// Pull brings an image for a platform here; nil is this machine's. auth is a registry's credentials as the Engine API has
	// them in its header.
	Pull func(ctx context.Context, image, auth string, p *ocispec.Platform) error
	// Join makes a network of the cluster's here, which stays at least until release, and Configure takes what the cluster knows of
	// this node.
	Join      func(context.Context, *api.Network) (release func(), err error)
	Configure func(context.Context, *api.Node) error
	// Speaks6 says whether one that is here has IPv6.
	Speaks6 func(id string) bool

	Attachments Attachments
	// Secrets is a directory in memory. What tasks may read lies below it, by their IDs.
	Secrets string
	Log     *slog.Logger
}

// Executor implements exec.Executor. It is safe for concurrent use.
type Executor struct {
	exec.DependencyManager
	o Options

	mu   sync.Mutex
	seen *api.NodeDescription // what Describe has said last
}

// New returns an executor that has run nothing yet.
func New(o Options) *Executor {
	return &Executor{DependencyManager: agent.NewDependencyManager(nil), o: o}
}

// Describe implements exec.Executor.
func (e *Executor) Describe(context.Context) (*api.NodeDescription, error) {
	d := e.o.Describe()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = d
	return d, nil
}

func (e *Executor) description() *api.NodeDescription {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen
}

// Configure implements exec.Executor.
func (e *Executor) Configure(ctx context.Context, n *api.Node) error {
	if err := e.o.Configure(ctx, n); err != nil {
		e.o.Log.Warn("the cluster's networks are not all here", "error", err)
	}
	return nil
}

// SetNetworkBootstrapKeys implements exec.Executor.
func (e *Executor) SetNetworkBootstrapKeys([]*api.EncryptionKey) error { return nil }

// Controller implements exec.Executor.
func (e *Executor) Controller(t *api.Task) (exec.Controller, error) {
	t = t.Copy()
	switch {
	case t.Spec.GetAttachment() != nil && len(t.Networks) > 0:
		ctx, cancel := context.WithCancel(context.Background())
		return &attachment{Executor: e, task: t, ctx: ctx, close: cancel}, nil
	case t.Spec.GetContainer() == nil:
		return nil, exec.ErrRuntimeUnsupported
	}
	expanded, err := template.ExpandContainerSpec(e.description(), t)
	if err != nil {
		return nil, err
	}
	t.Spec.Runtime = &api.TaskSpec_Container{Container: expanded}
	ctx, cancel := context.WithCancel(context.Background())
	return &controller{
		Executor: e, task: t, name: nameOf(t), ctx: ctx, close: cancel,
		deps:  template.NewTemplatedDependencyGetter(agent.Restrict(e, t), t, e.description()),
		files: filepath.Join(e.o.Secrets, t.ID),
	}, nil
}
