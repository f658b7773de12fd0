package frontend

import (
	"bytes"
	"context"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// unixLines is the frontend's way to the solver on which the files that the frontend itself reads, Dockerfiles
// and ignore files, have Unix line ends. Its parser leaves the carriage returns of a checkout on Windows in
// heredocs and in the names of their files (frontend/dockerfile/parser/parser.go, v0.34.2). A file in which
// some lines have none is meant as it is.
type unixLines struct{ gateway.Client }

// Solve implements gateway.Client.
func (c *unixLines) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	res, err := c.Client.Solve(ctx, req)
	if err == nil {
		eachRef(res, func(r gateway.Reference) gateway.Reference { return &unixFiles{r} })
	}
	return res, err
}

// unixFiles is a result whose text files have Unix line ends.
type unixFiles struct{ gateway.Reference }

// ReadFile implements gateway.Reference.
func (f *unixFiles) ReadFile(ctx context.Context, req gateway.ReadRequest) ([]byte, error) {
	text, err := f.Reference.ReadFile(ctx, req)
	if err != nil || req.Range != nil && req.Range.Offset > 0 {
		return text, err
	}
	if bytes.Count(text, []byte("\r\n")) == bytes.Count(text, []byte("\n")) && !bytes.Contains(text, []byte{0}) {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	return text, nil
}

// solved takes the wrappers off a result: the solver knows its own references only.
func solved(res *gateway.Result, err error) (*gateway.Result, error) {
	if err == nil {
		eachRef(res, func(r gateway.Reference) gateway.Reference {
			if f, ok := r.(*unixFiles); ok {
				return f.Reference
			}
			return r
		})
	}
	return res, err
}

func eachRef(res *gateway.Result, f func(gateway.Reference) gateway.Reference) {
	if res == nil {
		return
	}
	if res.Ref != nil {
		res.Ref = f(res.Ref)
	}
	for k, r := range res.Refs {
		if r != nil {
			res.Refs[k] = f(r)
		}
	}
	for _, all := range res.Attestations {
		for i, a := range all {
			if a.Ref != nil {
				all[i].Ref = f(a.Ref)
			}
		}
	}
}
