package debug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	bkcache "github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend/gateway/container"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/solver/llbsolver/mounts"
	"github.com/moby/buildkit/solver/pb"
	utilsystem "github.com/moby/buildkit/util/system"
	"github.com/moby/buildkit/worker"
)

// Size is a terminal's.
type Size = executor.WinSize

// Shell is a process to run in the place of a failed step.
type Shell struct {
	Args    []string // the step's own shell when empty
	Env     []string // besides the step's
	Tty     bool
	Session string // of a client that serves secrets and agents; without one, none are there

	Stdin          io.ReadCloser  // closed when the process has ended
	Stdout, Stderr io.WriteCloser // with a terminal, Stderr stays empty
	Resize         <-chan Size
}

// Runs is where a process in a step's place runs.
type Runs struct {
	Worker   worker.Worker
	Executor func(*pb.Platform) (executor.Executor, error)
	Sessions *session.Manager
}

// Run runs a process with the file system that a kept step has left, its mounts, environment, user, network,
// limits and architecture, and returns its exit code. What the process changes is gone afterwards, except in
// cache mounts. It ends with ctx, or with End. An ID that is not, or no longer, that of a kept step is
// errdefs.ErrNotFound.
func (f *Steps) Run(ctx context.Context, id string, sh Shell, in Runs) (exit int, err error) {
	k, refs, leave, err := f.take(id)
	if err != nil {
		return 0, err
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()

	d := &debugging{kept: k, Runs: in, refs: refs, group: session.NewGroup(), caches: map[*pb.Mount]string{}}
	if d.asked = sh.Session != ""; d.asked {
		d.group = session.NewGroup(sh.Session)
	}
	return d.run(ctx, sh)
}

// debugging is one process in a step's place.
type debugging struct {
	*kept
	Runs
	refs   map[int]bkcache.ImmutableRef
	group  session.Group
	asked  bool // for secrets
	caches map[*pb.Mount]string
}

func (d *debugging) run(ctx context.Context, sh Shell) (int, error) {
	exec, err := d.Executor(d.Op.Platform)
	if err != nil {
		return 0, err
	}
	meta, err := d.meta(ctx, sh)
	if err != nil {
		return 0, err
	}
	wanted, inputs, err := d.mounts()
	if err != nil {
		return 0, err
	}
	mm := mounts.NewMountManager("debugging "+d.Op.Name, d.Worker.CacheManager(), d.Sessions)
	p, err := container.PrepareMounts(
		ctx, mm, d.Worker.CacheManager(), d.group, d.Exec.Meta.Cwd, wanted, inputs, d.layer(ctx), platformOf(d.Op.Platform).OS)
	defer discard(p)
	if err != nil {
		return 0, fmt.Errorf("mounting what step %s had: %w", d.Op.Name, err)
	}
	meta.ReadonlyRootFS = p.ReadonlyRootFS
	rec, err := exec.Run(ctx, "", p.Root, p.Mounts, executor.ProcessInfo{
		Meta: meta, Stdin: sh.Stdin, Stdout: sh.Stdout, Stderr: sh.Stderr, Resize: sh.Resize,
	}, nil)
	if rec != nil {
		_ = rec.Wait() // it samples the sandbox until then
	}
	if err == nil {
		return 0, nil
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if code, ok := exitCode(err); ok {
		return code, nil
	}
	return 0, err
}

// layer makes what a mount is written to.
func (d *debugging) layer(ctx context.Context) container.MakeMutable {
	return func(m *pb.Mount, ref bkcache.ImmutableRef) (bkcache.MutableRef, error) {
		id, ok := d.caches[m]
		if !ok {
			return d.Worker.CacheManager().New(ctx, ref, d.group, bkcache.WithDescription("debugging "+d.Op.Name))
		}
		cached, err := d.Worker.CacheManager().GetMutable(ctx, id)
		if errors.Is(err, bkcache.ErrLocked) {
			return nil, errdefs.ErrConflict.WithMessage(
				fmt.Sprintf("the cache mount %s is in use by a build; try again when it has ended", m.Dest))
		}
		return cached, err
	}
}

// discard gives back what a process has had mounted.
func discard(p container.PreparedMounts) {
	for _, a := range p.Actives {
		letGo(a.Ref)
	}
	for _, o := range p.OutputRefs {
		letGo(o.Ref)
	}
}

// meta says again what BuildKit makes of a step (solver/llbsolver/ops/exec.go, Exec, v0.34.2).
func (d *debugging) meta(ctx context.Context, sh Shell) (executor.Meta, error) {
	from := d.Exec.Meta
	hosts, err := container.ParseExtraHosts(from.ExtraHosts)
	if err != nil {
		return executor.Meta{}, err
	}
	meta := executor.Meta{
		Args: sh.Args, Env: append([]string{}, from.Env...), Tty: sh.Tty,
		Cwd: from.Cwd, User: from.User, Hostname: from.Hostname, ExtraHosts: hosts, Ulimit: from.Ulimit, CgroupParent: from.CgroupParent,
		CDIDevices: d.Exec.CdiDevices, LinuxResources: d.Limits, NetMode: d.Exec.Network, SecurityMode: d.Exec.Security,
		RemoveMountStubsRecursive: from.RemoveMountStubsRecursive,
	}
	if len(meta.Args) == 0 {
		meta.Args = []string{shellOf(from.Args)}
	}
	meta.Env = append(meta.Env, proxies(from.ProxyEnv)...)
	if !hasEnv(meta.Env, "PATH") {
		meta.Env = append(meta.Env, "PATH="+utilsystem.DefaultPathEnv(runtime.GOOS))
	}
	for _, e := range sh.Env {
		if name, _, _ := strings.Cut(e, "="); !hasEnv(meta.Env, name) {
			meta.Env = append(meta.Env, e)
		}
	}
	secret, err := d.secretEnv(ctx)
	meta.Env = append(meta.Env, secret...)
	return meta, err
}

// shellOf is the shell of a step in shell form.
func shellOf(args []string) string {
	if n := len(args); n >= 3 && strings.HasPrefix(args[n-2], "-") && strings.HasSuffix(args[n-2], "c") {
		return args[0]
	}
	return "/bin/sh"
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

func proxies(p *pb.ProxyEnv) (env []string) {
	for name, v := range map[string]string{
		"HTTP_PROXY": p.GetHttpProxy(), "HTTPS_PROXY": p.GetHttpsProxy(), "FTP_PROXY": p.GetFtpProxy(),
		"NO_PROXY": p.GetNoProxy(), "ALL_PROXY": p.GetAllProxy(),
	} {
		if v != "" {
			env = append(env, name+"="+v, strings.ToLower(name)+"="+v)
		}
	}
	return env
}

// secretEnv asks the client for the secrets that the step had in variables; those it has not are
// left out.
func (d *debugging) secretEnv(ctx context.Context) (env []string, err error) {
	if !d.asked {
		return nil, nil
	}
	for _, s := range d.Exec.Secretenv {
		err := d.Sessions.Any(ctx, d.group, func(ctx context.Context, _ string, caller session.Caller) error {
			v, err := secrets.GetSecret(ctx, caller, s.ID)
			if err == nil {
				env = append(env, s.Name+"="+string(v))
			}
			return err
		})
		if err != nil && !errors.Is(err, secrets.ErrNotFound) {
			return nil, fmt.Errorf("secret %s: %w", s.ID, err)
		}
	}
	return env, nil
}

// isRoot tells a step's root from its other mounts.
func isRoot(m *pb.Mount) bool { return path.Clean(m.Dest) == pb.RootMount }
