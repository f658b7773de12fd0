package frontend_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil/types"
)

// collector is a gateway that solves nothing: it answers what the frontend has to read before it can
// compile, and keeps what the frontend asks to be built. It is safe for concurrent use.
type collector struct {
	attrs map[string]string
	files map[string][]byte // of the local directories that the frontend itself reads, by name/path

	mu       sync.Mutex
	solved   []gateway.SolveRequest
	warnings []string
}

// buildPlatform is fixed, so that goldens don't depend on the machine.
var buildPlatform = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func (c *collector) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{
		Opts: c.attrs, SessionID: "session", Product: "gantry",
		Workers: []gateway.WorkerInfo{{ID: "worker", Platforms: []ocispec.Platform{buildPlatform}}},
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()), Caps: gatewaypb.Caps.CapSet(gatewaypb.Caps.All()),
	}
}

func (c *collector) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

func (c *collector) NewContainer(context.Context, gateway.NewContainerRequest) (gateway.Container, error) {
	return nil, errdefs.ErrNotImplemented.WithMessage("compiling starts no container")
}

func (c *collector) Warn(_ context.Context, _ digest.Digest, msg string, opts gateway.WarnOpts) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(opts.Range) > 0 {
		msg = fmt.Sprintf("line %d: %s", opts.Range[0].Start.Line, msg)
	}
	c.warnings = append(c.warnings, msg)
	return nil
}

// Solve reads the local directories that only the frontend reads, and keeps every other request.
func (c *collector) Solve(_ context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	res := gateway.NewResult()
	if src := onlySource(req.Definition); src != nil && src.Attrs[pb.AttrFollowPaths] != "" {
		name := strings.TrimPrefix(src.Identifier, "local://")
		res.SetRef(&folder{files: c.files, name: name})
		return res, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	req.FrontendOpt = maps.Clone(req.FrontendOpt) // the frontend goes on to use its own
	c.solved = append(c.solved, req)
	// Of a context that is a git repository or an archive the frontend reads the Dockerfile too.
	res.SetRef(&folder{files: c.files, name: "dockerfile"})
	return res, nil
}

// onlySource returns the source of a definition that has nothing else.
func onlySource(def *pb.Definition) *pb.SourceOp {
	if def == nil || len(def.Def) != 2 {
		return nil
	}
	var op pb.Op
	if op.UnmarshalVT(def.Def[0]) != nil {
		return nil
	}
	return op.GetSource()
}

// Names with an answer of their own.
const (
	frontendOffline = "docker.io/docker/dockerfile:1"    // no registry answers
	frontendOnline  = "docker.io/docker/dockerfile:1.99" // a registry has it
)

func (c *collector) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	switch {
	case ref == frontendOffline || strings.TrimPrefix(frontendOffline, "docker.io/") == ref:
		return "", "", nil, errdefs.ErrUnavailable.WithMessage("no route to registry-1.docker.io")
	case strings.Contains(ref, "missing"):
		return "", "", nil, errdefs.ErrNotFound.WithMessage(ref + ": not found")
	}
	p := buildPlatform
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		p = *opt.ImageOpt.Platform
	}
	if opt.OCILayoutOpt != nil && opt.OCILayoutOpt.Platform != nil {
		p = *opt.OCILayoutOpt.Platform
	}
	config, err := baseConfig(ref, p)
	return ref, digest.FromString(ref + platforms.Format(p)), config, err
}

func (c *collector) ResolveSourceMetadata(
	ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt,
) (*sourceresolver.MetaResponse, error) {
	res := &sourceresolver.MetaResponse{Op: op}
	if ref, ok := strings.CutPrefix(op.Identifier, "docker-image://"); ok {
		_, dgst, config, err := c.ResolveImageConfig(ctx, ref, opt)
		res.Image = &sourceresolver.ResolveImageResponse{Digest: dgst, Config: config}
		return res, err
	}
	return res, nil
}

// baseConfig is the config of an image as small as a distribution's; names with "triggers" have
// ONBUILD instructions, names with "service" say how they run.
func baseConfig(ref string, p ocispec.Platform) ([]byte, error) {
	config := map[string]any{
		"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, "Cmd": []string{"bash"},
	}
	if strings.Contains(ref, "triggers") {
		config["OnBuild"] = []string{"COPY src /src", "RUN make -C /src", "ENV BUILT=yes"}
	}
	if strings.Contains(ref, "service") {
		maps.Copy(config, map[string]any{
			"User": "daemon", "WorkingDir": "/srv", "Entrypoint": []string{"/serve"}, "Shell": []string{"/bin/ash", "-c"},
			"Labels": map[string]string{"made-by": "base"}, "ExposedPorts": map[string]any{"80/tcp": map[string]any{}},
		})
	}
	return json.Marshal(map[string]any{
		"architecture": p.Architecture, "os": p.OS, "variant": p.Variant, "created": "2030-01-02T03:04:05Z", "config": config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digest.FromString("layer of " + ref).String()}},
		"history": []any{map[string]any{"created": "2030-01-02T03:04:05Z", "created_by": "the base"}},
	})
}

// folder is a reference whose files are known.
type folder struct {
	files map[string][]byte
	name  string
}

func (f *folder) find(name string) ([]byte, error) {
	data, ok := f.files[path.Join(f.name, path.Clean("/"+name))]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
	}
	return data, nil
}

func (f *folder) ToState() (llb.State, error)    { return llb.Scratch(), nil }
func (f *folder) Evaluate(context.Context) error { return nil }

func (f *folder) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	data, err := f.find(req.Filename)
	if r := req.Range; err == nil && r != nil {
		data = data[min(r.Offset, len(data)):]
		if r.Length > 0 {
			data = data[:min(r.Length, len(data))]
		}
	}
	return data, err
}

func (f *folder) StatFile(_ context.Context, req gateway.StatRequest) (*types.Stat, error) {
	data, err := f.find(req.Path)
	return &types.Stat{Path: req.Path, Size: int64(len(data)), Mode: 0o644}, err
}

func (f *folder) ReadDir(context.Context, gateway.ReadDirRequest) ([]*types.Stat, error) {
	return nil, nil
}
