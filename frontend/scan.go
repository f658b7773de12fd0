package frontend

import (
	"context"
	"strings"
	"sync"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// platformKeeper mends what the Dockerfile frontend asks for an SBOM. It describes the result to be scanned
// once more, and then without the platform of the build, so that steps on top of `FROM scratch` become the
// machine's own (frontend/dockerfile/builder/build.go, v0.34.2: SBOM.Core has no marshal defaults). A step
// that is not among those of the build, but would be with one of the build's platforms, is that one.
type platformKeeper struct {
	gateway.Client

	mu        sync.Mutex
	built     map[digest.Digest]bool // ops of the build
	platforms []*pb.Platform         // of these
}

// Solve implements gateway.Client.
func (k *platformKeeper) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if def := req.Definition; def != nil {
		k.mu.Lock()
		if scans(def) {
			req.Definition = k.mend(def)
		} else {
			k.note(def)
		}
		k.mu.Unlock()
	}
	return k.Client.Solve(ctx, req)
}

// scans tells whether a definition has the step of a scanner (docs/attestations/sbom-protocol.md).
func scans(def *pb.Definition) bool {
	for _, text := range def.Def {
		var op pb.Op
		if op.UnmarshalVT(text) != nil || op.GetExec().GetMeta() == nil {
			continue
		}
		for _, e := range op.GetExec().Meta.Env {
			if strings.HasPrefix(e, "BUILDKIT_SCAN_DESTINATION=") {
				return true
			}
		}
	}
	return false
}

// mend returns a definition in which ops are those of the build where they can be.
func (k *platformKeeper) mend(def *pb.Definition) *pb.Definition {
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: def.Source}
	now := map[string]string{} // the digest that an op has now, by what it had
	changed := false
	for _, text := range def.Def { // inputs come before what they are put into
		was := digest.FromBytes(text)
		var op pb.Op
		if op.UnmarshalVT(text) != nil {
			return def
		}
		for _, in := range op.Inputs {
			if to, ok := now[in.Digest]; ok {
				in.Digest = to
			}
		}
		mended := k.ofBuild(&op, changed, text)
		is := digest.FromBytes(mended)
		changed = changed || is != was
		now[was.String()] = is.String()
		out.Def = append(out.Def, mended)
		if m, ok := def.Metadata[was.String()]; ok {
			out.Metadata[is.String()] = m
		}
	}
	if !changed {
		return def
	}
	if def.Source != nil {
		out.Source = &pb.Source{Infos: def.Source.Infos, Locations: map[string]*pb.Locations{}}
		for was, l := range def.Source.Locations {
			if is, ok := now[was]; ok {
				was = is
			}
			out.Source.Locations[was] = l
		}
	}
	return out
}

// ofBuild is the op as the build has it, or else as it is; text is what it was before its inputs changed.
func (k *platformKeeper) ofBuild(op *pb.Op, changed bool, text []byte) []byte {
	as := text
	if changed {
		if t, err := marshal(op); err == nil {
			as = t
		}
	}
	if op.Platform == nil || k.built[digest.FromBytes(as)] {
		return as
	}
	own := op.Platform
	defer func() { op.Platform = own }()
	for _, p := range k.platforms {
		op.Platform = p
		if t, err := marshal(op); err == nil && k.built[digest.FromBytes(t)] {
			return t
		}
	}
	return as
}

// note remembers the ops of a build.
func (k *platformKeeper) note(def *pb.Definition) {
	if k.built == nil {
		k.built = map[digest.Digest]bool{}
	}
	for _, text := range def.Def {
		k.built[digest.FromBytes(text)] = true
		var op pb.Op
		if op.UnmarshalVT(text) != nil || op.Platform == nil {
			continue
		}
		known := false
		for _, p := range k.platforms {
			known = known || p.EqualVT(op.Platform)
		}
		if !known {
			k.platforms = append(k.platforms, op.Platform)
		}
	}
}

// marshal gives the bytes that BuildKit's client gives (client/llb/marshal.go, v0.34.2).
func marshal(op *pb.Op) ([]byte, error) { return proto.MarshalOptions{Deterministic: true}.Marshal(op) }
