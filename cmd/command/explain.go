package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/docker/buildx/localstate"
	"github.com/docker/buildx/util/confutil"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	provenance "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/solver/explain"
)

// explainCache prints for each step of the build whether it came from the cache, and if not, why.
func (d *builderDriver) explainCache(ctx context.Context, w io.Writer, noCache bool) error {
	if len(d.refs) == 0 {
		return nil // it has not come so far as to ask the daemon
	}
	ref := d.refs[len(d.refs)-1]
	c, err := d.Client(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	h := &history{c: c, content: proxy.NewContentStore(c.ContentClient())}
	now, before, err := h.pair(ctx, ref, confutil.NewConfig(nil, confutil.WithDir(d.at.buildxDir())))
	if err != nil {
		return fmt.Errorf("--explain-cache: %w", err)
	}
	var changed map[string][]string
	if err := d.at.call(ctx, http.MethodGet, "/gantry/changes/"+ref, &changed); err != nil {
		return fmt.Errorf("--explain-cache: %w", err)
	}
	b := explain.Build{Steps: now, Before: before, NoCache: noCache, Changed: func(name string) ([]string, bool) {
		files, known := changed[name]
		return files, known
	}}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, "STEP\tRESULT\tWHY")
	for _, l := range b.Lines() {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", oneLine(l.Step), l.How, l.Why)
	}
	return tw.Flush()
}

// history reads the records of builds.
type history struct {
	c       *client.Client
	content content.Provider
}

// pair returns the steps of the build ref, and those of the last build before it of the same context,
// Dockerfile and target; nil when the history has none.
func (h *history) pair(ctx context.Context, ref string, cfg *confutil.Config) (now, before []explain.Step, err error) {
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
	places, err := localstate.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range records {
		if r.CreatedAt.AsTime().Before(records[at].CreatedAt.AsTime()) && alike(places, r, records[at]) {
			before, err = h.steps(ctx, r)
			return now, before, err
		}
	}
	return now, nil, nil
}

// alike says whether two builds are of the same thing.
func alike(places *localstate.LocalState, a, b *controlapi.BuildHistoryRecord) bool {
	of := func(ref string) (s localstate.State) {
		if st, err := places.ReadRef("default", "default", ref); err == nil {
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
func (h *history) records(ctx context.Context) (all []*controlapi.BuildHistoryRecord, err error) {
	stream, err := h.c.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{EarlyExit: true})
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
func (h *history) steps(ctx context.Context, r *controlapi.BuildHistoryRecord) ([]explain.Step, error) {
	defs, err := h.definitions(ctx, r)
	if err != nil {
		return nil, err
	}
	stream, err := h.c.ControlClient().Status(ctx, &controlapi.StatusRequest{Ref: r.Ref})
	if err != nil {
		return nil, err
	}
	found := map[digest.Digest]*explain.Step{}
	var order []*explain.Step
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		s := client.NewSolveStatus(resp)
		for _, v := range s.Vertexes {
			step := found[v.Digest]
			if step == nil {
				step = &explain.Step{Digest: v.Digest, Name: v.Name, Inputs: v.Inputs}
				if def, ok := defs[v.Digest]; ok {
					step.Op = def.Op
				}
				if step.Op.GetExec() != nil {
					step.How = "native"
				}
				found[v.Digest], order = step, append(order, step)
			}
			step.Cached = step.Cached || v.Cached
			step.Failed = step.Failed || v.Error != "" && !strings.Contains(v.Error, "context canceled")
			if v.Started != nil && v.Completed != nil {
				step.Ended = v.Error == ""
				step.Ran += v.Completed.Sub(*v.Started)
			}
		}
		for _, l := range s.Logs {
			if step := found[l.Vertex]; step != nil && strings.HasPrefix(string(l.Data), "emulated ") {
				step.How = strings.TrimSpace(strings.SplitN(string(l.Data), "\n", 2)[0])
			}
		}
	}
	out := make([]explain.Step, 0, len(order))
	for _, s := range order {
		out = append(out, *s)
	}
	return out, nil
}

// definitions are the LLB ops of a build, out of the provenance in its record; none for a build that
// has failed.
func (h *history) definitions(ctx context.Context, r *controlapi.BuildHistoryRecord) (map[digest.Digest]provenance.BuildStep, error) {
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
			dt, err := content.ReadBlob(ctx, h.content, ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size})
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
