package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/docker/buildx/localstate"
	"github.com/docker/buildx/util/confutil"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	provenance "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// History reads the records of builds that a daemon keeps.
type History struct {
	control controlapi.ControlClient
	content content.Provider
	places  *localstate.LocalState
}

// NewHistory returns the history of the daemon behind c. cfg is the directory in which buildx has noted from
// where its builds were made.
func NewHistory(c *client.Client, cfg *confutil.Config) (*History, error) {
	places, err := localstate.New(cfg)
	if err != nil {
		return nil, err
	}
	return &History{c.ControlClient(), proxy.NewContentStore(c.ContentClient()), places}, nil
}

// Pair returns the steps of the build ref, and those of the last build before it of the same context,
// Dockerfile and target; nil when the history has none.
func (h *History) Pair(ctx context.Context, ref string) (now, before []Step, err error) {
	records, err := h.records(ctx)
	if err != nil {
		return nil, nil, err
	}
	at := slices.IndexFunc(records, func(r *controlapi.BuildHistoryRecord) bool { return r.Ref == ref })
	if at < 0 {
		return nil, nil, fmt.Errorf("the history has no record of build %s", ref)
	}
	if now, err = h.steps(ctx, records[at]); err != nil {
		return nil, nil, err
	}
	for _, r := range records {
		if r.CreatedAt.AsTime().Before(records[at].CreatedAt.AsTime()) && h.alike(r, records[at]) {
			before, err = h.steps(ctx, r)
			return now, before, err
		}
	}
	return now, nil, nil
}

// alike says whether two builds are of the same thing.
func (h *History) alike(a, b *controlapi.BuildHistoryRecord) bool {
	of := func(ref string) (s localstate.State) {
		if st, err := h.places.ReadRef("default", "default", ref); err == nil {
			s = *st
		}
		s.GroupRef = ""
		return s
	}
	if of(a.Ref) != of(b.Ref) {
		return false
	}
	for _, k := range []string{"filename", "target", "context", "platform"} {
		if a.FrontendAttrs[k] != b.FrontendAttrs[k] {
			return false
		}
	}
	return a.Frontend == b.Frontend
}

// records are those of builds that have ended, the newest first.
func (h *History) records(ctx context.Context) (all []*controlapi.BuildHistoryRecord, err error) {
	stream, err := h.control.ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{EarlyExit: true})
	if err != nil {
		return nil, err
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if e.Type != controlapi.BuildHistoryEventType_DELETED && e.Record.GetCompletedAt() != nil {
			all = append(all, e.Record)
		}
	}
	slices.SortFunc(all, func(a, b *controlapi.BuildHistoryRecord) int {
		return b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime())
	})
	return all, nil
}

// steps puts together what the log of a build and its provenance say of each vertex.
func (h *History) steps(ctx context.Context, r *controlapi.BuildHistoryRecord) ([]Step, error) {
	defs, err := h.definitions(ctx, r)
	if err != nil {
		return nil, err
	}
	stream, err := h.control.Status(ctx, &controlapi.StatusRequest{Ref: r.Ref})
	if err != nil {
		return nil, err
	}
	found := map[digest.Digest]*Step{}
	var order []*Step
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for _, v := range client.NewSolveStatus(resp).Vertexes {
			step := found[v.Digest]
			if step == nil {
				step = &Step{Digest: v.Digest, Name: v.Name, Inputs: v.Inputs, Op: defs[v.Digest].Op}
				found[v.Digest], order = step, append(order, step)
			}
			step.told(v)
		}
	}
	out := make([]Step, 0, len(order))
	for _, s := range order {
		out = append(out, *s)
	}
	return out, nil
}

// told adds what one status of the step's vertex says.
func (s *Step) told(v *client.Vertex) {
	s.Cached = s.Cached || v.Cached
	s.Failed = s.Failed || v.Error != "" && !strings.Contains(v.Error, "context canceled")
	if v.Started != nil && v.Completed != nil {
		s.Ended = v.Error == ""
		s.Ran += v.Completed.Sub(*v.Started)
	}
}

// definitions are the LLB ops of a build, out of the provenance in its record; none for a build that
// has failed.
func (h *History) definitions(ctx context.Context, r *controlapi.BuildHistoryRecord) (map[digest.Digest]provenance.BuildStep, error) {
	results := []*controlapi.BuildResultInfo{r.Result}
	for _, res := range r.Results {
		results = append(results, res)
	}
	out := map[digest.Digest]provenance.BuildStep{}
	for _, res := range results {
		for _, d := range res.GetAttestations() {
			if !strings.HasPrefix(d.Annotations["in-toto.io/predicate-type"], "https://slsa.dev/provenance/") {
				continue
			}
			dt, err := content.ReadBlob(ctx, h.content,
				ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size})
			if err != nil {
				return nil, fmt.Errorf("provenance of build %s: %w", r.Ref, err)
			}
			var s struct {
				provenance.ProvenancePredicateSLSA1
			}
			if err := json.Unmarshal(dt, &s); err != nil {
				return nil, fmt.Errorf("provenance of build %s: %w", r.Ref, err)
			}
			cfg := s.BuildDefinition.InternalParameters.BuildConfig
			if cfg == nil {
				continue
			}
			byID := map[string]provenance.BuildStep{}
			for _, step := range cfg.Definition {
				byID[step.ID] = step
			}
			for dgst, id := range cfg.DigestMapping {
				out[dgst] = byID[id]
			}
		}
	}
	return out, nil
}
