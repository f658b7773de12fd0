package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/moby/api/types/jsonstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/gantry-build/gantry/internal/fault"
)

// The words of version 2 of POST /build: BuildKit's own progress, and the image that was made.
const (
	traceID = "moby.buildkit.trace"
	imageID = "moby.image.id"
)

// traced solves what a client of version 2 asks and answers with BuildKit's status messages. It may have a session of
// its own, from which passwords, secrets and, with remote=client-session, the context come.
func (b *Build) traced(w http.ResponseWriter, r *http.Request, o *client.SolveOpt) error {
	q := r.URL.Query()
	req := &controlapi.SolveRequest{
		Ref: cmp.Or(q.Get("buildid"), identity.NewID()), Session: q.Get("session"), Frontend: o.Frontend, FrontendAttrs: o.FrontendAttrs,
		Entitlements: o.AllowedEntitlements, Cache: &controlapi.CacheOptions{},
	}
	if err := outputs(q.Get("outputs"), o, req); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	b.begin(req.Ref, cancel)
	defer b.begin(req.Ref, nil)
	bk, err := b.dial(ctx)
	if err != nil {
		return err
	}
	defer bk.Close()
	ctl := bk.ControlClient()
	own, err := session.NewSession(ctx, "")
	if err != nil {
		return err
	}
	for _, a := range o.Session {
		own.Allow(a)
	}
	own.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource(o.LocalMounts)))
	for name := range o.LocalMounts {
		req.FrontendAttrs["local-sessionid:"+name] = own.ID()
	}
	req.Session = cmp.Or(req.Session, own.ID())
	out := newProgress(w)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return own.Run(ctx, grpchijack.Dialer(ctl)) })
	g.Go(func() error { return trace(ctx, ctl, req.Ref, out) })
	var res *controlapi.SolveResponse
	g.Go(func() (err error) {
		defer own.Close()
		res, err = ctl.Solve(ctx, req)
		return err
	})
	if err := g.Wait(); err != nil {
		return out.fail(err)
	}
	id := map[string]string{"ID": res.ExporterResponse[exportedDigest]}
	return out.aux(imageID, id)
}

// trace sends each status message as it is (the field aux is base64 of the protobuf).
func trace(ctx context.Context, ctl controlapi.ControlClient, ref string, out *progress) error {
	stream, err := ctl.Status(ctx, &controlapi.StatusRequest{Ref: ref})
	if err != nil {
		return err
	}
	for {
		status, err := stream.Recv()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the progress of the build: %w", err)
		}
		data, err := proto.Marshal(status)
		if err == nil {
			err = out.aux(traceID, data)
		}
		if err != nil {
			return err
		}
	}
}

// outputs are what the client wants of the build: an image with the tags unless it says otherwise.
func outputs(text string, o *client.SolveOpt, req *controlapi.SolveRequest) error {
	var asked []client.ExportEntry
	if text != "" {
		if err := json.Unmarshal([]byte(text), &asked); err != nil {
			return fault.Invalid("error reading outputs: %v", err)
		}
	}
	if len(asked) > 1 {
		return fault.Invalid("multiple outputs not supported")
	}
	export := o.Exports[0]
	if len(asked) > 0 && asked[0].Type != "moby" && asked[0].Type != "image" {
		export = asked[0]
		req.EnableSessionExporter = true
	}
	req.Exporters = []*controlapi.Exporter{{Type: export.Type, Attrs: export.Attrs}}
	return nil
}

// begin notes how a build can be ended; nil: it is over.
func (b *Build) begin(id string, end context.CancelFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if end == nil {
		delete(b.running, id)
		return
	}
	b.running[id] = end
}

// cancel answers POST /build/cancel.
func (b *Build) cancel(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	if id == "" {
		return fault.Invalid("build ID not provided")
	}
	b.mu.Lock()
	end := b.running[id]
	b.mu.Unlock()
	if end != nil {
		end()
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *progress) aux(id string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	raw := json.RawMessage(data)
	s.send(jsonstream.Message{ID: id, Aux: &raw})
	return nil
}
