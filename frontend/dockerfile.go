// Package frontend turns a Dockerfile into LLB: it is BuildKit's Dockerfile frontend, run in this process, with
// what is mended of it. What a user may ask for is settled in package request; what a local directory holds,
// and whether it has changed, is told by package tree.
package frontend

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"
)

// standardSyntax is the image of the frontend that is built in.
const standardSyntax = "docker.io/docker/dockerfile"

// answerTime is how long a registry may take to say whether it has a frontend. A network that
// swallows packets would otherwise hold up every build for minutes.
const answerTime = 10 * time.Second

// Dockerfile is BuildKit's Dockerfile frontend as a gateway.BuildFunc. A Dockerfile whose first line
// names the standard frontend's image (# syntax=docker/dockerfile:1) is built by the one inside when
// no registry gives that image; a warning says so.
func Dockerfile(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	return solved(dockerfile.Build(ctx, &unixLines{&platformKeeper{Client: &syntaxClient{Client: c}}}))
}

// syntaxClient is the frontend's way to the solver. The only request that it looks at is the one for
// another frontend (buildkit, frontend/dockerfile/builder/build.go, forwardGateway, v0.34.2).
type syntaxClient struct{ gateway.Client }

func (c *syntaxClient) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	ref := req.FrontendOpt["source"]
	if req.Frontend != "gateway.v0" || !isStandard(ref) {
		return c.Client.Solve(ctx, req)
	}
	cause := c.fetchable(ctx, ref)
	if cause == nil {
		return c.Client.Solve(ctx, req)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if errdefs.IsNotFound(cause) { // a registry has answered, so the name is wrong
		return nil, cause
	}
	msg := fmt.Sprintf("the built-in Dockerfile frontend is used: %s can't be had: %v", ref, cause)
	if err := c.Warn(ctx, digest.FromString(ref), msg, gateway.WarnOpts{Level: 1}); err != nil {
		return nil, err
	}
	return solved(dockerfile.Build(ctx, &unixLines{&platformKeeper{Client: &builtinClient{c.Client, req.FrontendOpt["cmdline"]}}}))
}

// fetchable says why the image of a frontend can't be had.
func (c *syntaxClient) fetchable(ctx context.Context, ref string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer within %v", answerTime))
	defer cancel()
	_, _, _, err := c.ResolveImageConfig(ctx, ref, sourceresolver.Opt{
		ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: c.BuildOpts().Opts["image-resolve-mode"]},
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// isStandard says whether ref is some version of the standard frontend. A digest asks for exactly
// those bytes, which the built-in one is not.
func isStandard(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	_, pinned := named.(reference.Digested)
	return !pinned && named.Name() == standardSyntax
}

// builtinClient keeps the frontend from looking at the syntax line again.
type builtinClient struct {
	gateway.Client
	cmdline string
}

func (c *builtinClient) BuildOpts() gateway.BuildOpts {
	o := c.Client.BuildOpts()
	o.Opts = maps.Clone(o.Opts)
	delete(o.Opts, "source")
	o.Opts["cmdline"] = c.cmdline
	return o
}
