package solver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/continuity/fs"
	intoto "github.com/in-toto/in-toto-golang/in_toto"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	bksolver "github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BuildKit makes SBOMs by a step: a scanner's image, run with the results to be scanned as mounts
// (docs/attestations/sbom-protocol.md there). The scanner here is such an image in name only: what its step
// does is done in this process, so that no hub has to be asked, and everything around it, the stages and the
// context that a Dockerfile wants scanned, and the build cache, is BuildKit's own.
const (
	// Scanner is the name of the image; a request for an SBOM names it as its generator.
	Scanner     = "gantry.build/sbom"
	scannerID   = "docker-image://" + Scanner + ":latest"
	scannerArgs = "gantry-sbom"

	// ScannerEpoch is the parameter that gives the time of SBOMs, in seconds since 1970.
	ScannerEpoch = "EPOCH"
)

// Scan reads the packages below root, a file system, into an SPDX document in JSON. name is what the
// document is about, created the time that it bears.
type Scan func(ctx context.Context, root, name string, created time.Time) ([]byte, error)

// ResolveSourceMetadata implements worker.Worker: the scanner's image has a command, and nothing else.
func (w *gantryWorker) ResolveSourceMetadata(
	ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job bksolver.JobContext,
) (*sourceresolver.MetaResponse, error) {
	if op.Identifier != scannerID {
		return w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, job)
	}
	cfg, err := json.Marshal(ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{scannerArgs}}})
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: digest.FromBytes(cfg), Config: cfg}},
		nil
}

// scannerImage is the op by which the scanner's image becomes an empty directory.
type scannerImage struct {
	w       worker.Worker
	version string // another version may find other packages
}

func (s scannerImage) CacheMap(context.Context, bksolver.JobContext, int) (*bksolver.CacheMap, bool, error) {
	return &bksolver.CacheMap{Digest: digest.FromString(scannerID + " " + s.version)}, true, nil
}

func (s scannerImage) Exec(context.Context, bksolver.JobContext, []bksolver.Result) ([]bksolver.Result, error) {
	return []bksolver.Result{worker.NewWorkerRefResult(nil, s.w)}, nil
}

func (s scannerImage) Acquire(context.Context) (bksolver.ReleaseFunc, error) { return func() {}, nil }

func isScanner(e *pb.ExecOp) bool {
	return e.Meta != nil && len(e.Meta.Args) == 1 && e.Meta.Args[0] == scannerArgs
}

// scanning is the executor of the scanner's step.
type scanning struct {
	executor.Executor
	scan Scan
}

// Run implements executor.Executor: it writes a statement for each file system that is mounted as a source.
func (s scanning) Run(
	ctx context.Context, _ string, _ executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{},
) (resourcestypes.Recorder, error) {
	if started != nil {
		close(started)
	}
	env := map[string]string{}
	for _, kv := range process.Meta.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	created := time.Now()
	if v := env["BUILDKIT_SCAN_"+ScannerEpoch]; v != "" {
		seconds, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SBOM: %s=%s is no number of seconds", ScannerEpoch, v)
		}
		created = time.Unix(seconds, 0)
	}
	core, extras := env["BUILDKIT_SCAN_SOURCE"], env["BUILDKIT_SCAN_SOURCE_EXTRAS"]
	var out *executor.Mount
	for i, m := range mounts {
		if filepath.Clean(m.Dest) == filepath.Clean(env["BUILDKIT_SCAN_DESTINATION"]) {
			out = &mounts[i]
		}
	}
	if out == nil {
		return nil, errors.New("SBOM: the scanner has no destination")
	}
	return nil, mounted(ctx, *out, false, func(dir string) error {
		for _, m := range mounts {
			if m.Dest != core && (extras == "" || filepath.Dir(m.Dest) != filepath.Clean(extras)) {
				continue
			}
			name := filepath.Base(m.Dest)
			err := mounted(ctx, m, true, func(root string) error { return s.write(ctx, root, name, dir, created.UTC()) })
			if err != nil {
				return fmt.Errorf("SBOM of %s: %w", name, err)
			}
		}
		return nil
	})
}

// write makes the statement about root, as file NAME.spdx.json below dir.
func (s scanning) write(ctx context.Context, root, name, dir string, created time.Time) error {
	doc, err := s.scan(ctx, root, name, created)
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]any{
		"_type": intoto.StatementInTotoV01, "predicateType": intoto.PredicateSPDX, "predicate": json.RawMessage(doc),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".spdx.json"), text, 0o644)
}

// mounted calls f with the directory where a mount's file system is mounted meanwhile.
func mounted(ctx context.Context, m executor.Mount, readonly bool, f func(dir string) error) (err error) {
	ref, err := m.Src.Mount(ctx, readonly)
	if err != nil {
		return err
	}
	mounts, release, err := ref.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	lm := snapshot.LocalMounterWithMounts(mounts)
	dir, err := lm.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lm.Unmount()) }()
	if m.Selector != "" {
		if dir, err = fs.RootPath(dir, m.Selector); err != nil {
			return err
		}
	}
	return f(dir)
}
