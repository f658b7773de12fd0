package debug

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// attempt watches one exec op from below, as its cache manager and its executor, and keeps the step
// when it fails. It can't wrap the op itself: provenance asks for BuildKit's very type
// (solver/llbsolver/provenance.go, v0.34.2). Nor does BuildKit's own ExecError, which carries the
// same references, pass any place that is open to others.
type attempt struct {
	bkcache.Manager
	steps *Steps
	Op

	mu       sync.Mutex
	sessions []string
	kept     *kept // since the process has failed
}

// Op is a step that is about to run.
type Op struct {
	Name     string // as the progress shows it
	Exec     *pb.ExecOp
	Platform *pb.Platform
	Limits   *pb.LinuxResources
}

// Watch returns the cache manager and the executor to make an op with, over those that it would have had.
func (f *Steps) Watch(op Op, cm bkcache.Manager, exec executor.Executor) (bkcache.Manager, executor.Executor) {
	a := &attempt{Manager: cm, steps: f, Op: op}
	return a, &watchedExecutor{exec, a}
}

// New implements cache.Accessor: it watches the layers that the op writes to. Cache mounts, which
// come this way, too, stay what they are.
func (a *attempt) New(
	ctx context.Context, parent bkcache.ImmutableRef, s session.Group, opts ...bkcache.RefOption,
) (bkcache.MutableRef, error) {
	ref, err := a.Manager.New(ctx, parent, s, opts...)
	if err != nil {
		return nil, err
	}
	i, ok := a.mountOf(ref.GetDescription())
	if !ok {
		return ref, nil
	}
	a.mu.Lock()
	a.sessions = session.AllSessionIDs(s)
	a.mu.Unlock()
	return &writtenLayer{ref, a, i}, nil
}

// mountOf tells which mount a layer is for by its description (buildkit, solver/llbsolver/ops/exec.go,
// Exec, v0.34.2).
func (a *attempt) mountOf(description string) (int, bool) {
	for i, m := range a.Exec.Mounts {
		if description == fmt.Sprintf("mount %s from exec %s", m.Dest, strings.Join(a.Exec.Meta.Args, " ")) {
			return i, true
		}
	}
	return 0, false
}

// writtenLayer is a layer that a step writes to; when the step has failed, what is committed is kept.
type writtenLayer struct {
	bkcache.MutableRef
	a     *attempt
	mount int
}

func (l *writtenLayer) Commit(ctx context.Context) (bkcache.ImmutableRef, error) {
	ref, err := l.MutableRef.Commit(ctx)
	if err != nil {
		return nil, err
	}
	l.a.mu.Lock()
	k := l.a.kept
	l.a.mu.Unlock()
	if k != nil {
		l.a.steps.save(k, l.mount, ref)
	}
	return ref, nil
}

type watchedExecutor struct {
	executor.Executor
	a *attempt
}

// Run implements executor.Executor. A step that was cancelled has not failed.
func (x *watchedExecutor) Run(
	ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{},
) (resourcestypes.Recorder, error) {
	x.a.mu.Lock()
	x.a.kept = nil
	x.a.mu.Unlock()
	rec, err := x.Executor.Run(ctx, id, root, mounts, process, started)
	if err != nil && ctx.Err() == nil {
		x.a.fail(err, mounts)
	}
	return rec, err
}

// fail keeps the step, and what it only reads; the op then commits what it has written.
func (a *attempt) fail(err error, mounts []executor.Mount) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := &kept{Step: a.describe(err), Op: a.Op, caches: map[int]string{}}
	read := map[int]bkcache.ImmutableRef{}
	for i, m := range a.Exec.Mounts {
		dest := inside(a.Exec.Meta.Cwd, m.Dest)
		at := slices.IndexFunc(mounts, func(em executor.Mount) bool { return em.Dest == dest })
		if at < 0 || m.MountType != pb.MountType_BIND && m.MountType != pb.MountType_CACHE {
			continue
		}
		switch ref := refOf(mounts[at].Src).(type) {
		case bkcache.ImmutableRef:
			read[i] = ref
		case bkcache.MutableRef:
			if m.MountType == pb.MountType_CACHE && m.Input != int64(pb.Empty) {
				k.caches[i] = ref.ID()
			}
		}
	}
	if !a.steps.keep(k, a.sessions) {
		return
	}
	a.kept = k
	for i, ref := range read {
		a.steps.save(k, i, ref)
	}
}

func (a *attempt) describe(err error) Step {
	step := Step{
		ID: identity.NewID(), Name: a.Name, Args: a.Exec.Meta.Args, Exit: -1, Platform: platforms.Format(platformOf(a.Platform)),
	}
	if code, ok := exitCode(err); ok {
		step.Exit = code
	}
	for _, m := range a.Exec.Mounts {
		switch {
		case m.SecretOpt != nil:
			step.Secrets = append(step.Secrets, m.SecretOpt.ID)
		case m.SSHOpt != nil:
			step.SSH = append(step.SSH, m.SSHOpt.ID)
		}
	}
	for _, s := range a.Exec.Secretenv {
		step.Secrets = append(step.Secrets, s.ID)
	}
	slices.Sort(step.Secrets)
	step.Secrets = slices.Compact(step.Secrets)
	return step
}

// exitCode is that of the process, if it came so far.
func exitCode(err error) (int, bool) {
	var exit *gatewayapi.ExitError
	if !errors.As(err, &exit) || exit.ExitCode == gatewayapi.UnknownExitStatus && exit.Err != nil {
		return 0, false
	}
	return int(exit.ExitCode), true
}

// inside is where a mount of a process in cwd ends up (buildkit, PrepareMounts).
func inside(cwd, dest string) string {
	if filepath.IsAbs(filepath.Clean(dest)) {
		return dest
	}
	return filepath.Join("/", cwd, dest)
}

// refOf is the reference behind a mount, or nil. BuildKit hands it to executors in a struct without a
// name to the outside (frontend/gateway/container/container.go, mountable, v0.34.2), and nothing else
// of what it hands out holds the references of mounts that a step only reads. A test fails when the
// struct changes.
func refOf(src executor.Mountable) any {
	v := reflect.ValueOf(src)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	field := v.Elem().FieldByName("m")
	if !field.IsValid() {
		return nil
	}
	return reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Interface()
}

func platformOf(p *pb.Platform) ocispec.Platform {
	if p == nil {
		return platforms.DefaultSpec()
	}
	return platforms.Normalize(p.Spec())
}
