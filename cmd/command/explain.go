package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"

	"github.com/docker/buildx/util/confutil"

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
	h, err := explain.NewHistory(c, confutil.NewConfig(nil, confutil.WithDir(d.at.buildxDir())))
	if err != nil {
		return fmt.Errorf("--explain-cache: %w", err)
	}
	now, before, err := h.Pair(ctx, ref)
	if err != nil {
		return fmt.Errorf("--explain-cache: %w", err)
	}
	var note explain.Note
	if err := d.at.call(ctx, http.MethodGet, "/gantry/explain/"+ref, &note); err != nil {
		return fmt.Errorf("--explain-cache: %w", err)
	}
	b := explain.Build{Steps: now, Before: before, NoCache: noCache, Note: note}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, "STEP\tRESULT\tWHY")
	for _, l := range b.Lines() {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", oneLine(l.Step), l.How, l.Why)
	}
	return tw.Flush()
}
