package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/build"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner"
)

// dial connects to BuildKit's API without a socket. The caller closes the client.
func (b *Build) dial(ctx context.Context) (*client.Client, error) {
	return client.New(ctx, "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go b.conns.offer(theirs)
		return ours, nil
	}))
}

// prune answers POST /build/prune: takes records of the build cache away that nobody uses.
func (b *Build) prune(w http.ResponseWriter, r *http.Request) error {
	opts, err := pruneOptions(r)
	if err != nil {
		return err
	}
	bk, err := b.dial(r.Context())
	if err != nil {
		return fmt.Errorf("pruning the build cache: %w", err)
	}
	defer bk.Close()
	report := build.CachePruneReport{CachesDeleted: []string{}}
	gone := make(chan client.UsageInfo)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for u := range gone {
			report.CachesDeleted = append(report.CachesDeleted, u.ID)
			report.SpaceReclaimed += uint64(max(u.Size, 0))
		}
	}()
	err = bk.Prune(r.Context(), gone, opts...)
	close(gone)
	<-done
	if err != nil {
		return fmt.Errorf("pruning the build cache: %w", err)
	}
	if b.Pruned != nil {
		b.Pruned(runner.Event{Type: "builder", Action: "prune", Attributes: map[string]string{
			"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10),
		}})
	}
	return writeJSON(w, http.StatusOK, report)
}

// cacheFields are the filters that BuildKit knows by the same names.
var cacheFields = []string{"id", "parent", "type", "description", "inuse", "shared", "private"}

func pruneOptions(r *http.Request) (opts []client.PruneOption, err error) {
	f, err := parseFilters(r)
	if err != nil {
		return nil, err
	}
	if err := f.only(append([]string{"until", "unused-for"}, cacheFields...)...); err != nil {
		return nil, err
	}
	if f.any("until") && f.any("unused-for") {
		return nil, fault.Invalid("conflicting filters: \"until\" and \"unused-for\"")
	}
	f["until"] = merged(f["until"], f["unused-for"])
	until, err := untilOf(f)
	if err != nil {
		return nil, err
	}
	var keep time.Duration
	if !until.IsZero() {
		keep = time.Since(until)
	}
	sizes := map[string]int64{}
	for _, name := range []string{"reserved-space", "keep-storage", "max-used-space", "min-free-space"} {
		n, err := intOf(r, name, 0)
		if err != nil {
			return nil, fault.Invalid("%s is in bytes and expects an integer, got %v", name, r.URL.Query().Get(name))
		}
		sizes[name] = int64(n)
	}
	reserved := sizes["reserved-space"]
	if reserved == 0 {
		reserved = sizes["keep-storage"]
	}
	opts = append(opts, client.WithKeepOpt(keep, reserved, sizes["max-used-space"], sizes["min-free-space"]))
	if flag(r, "all") {
		opts = append(opts, client.PruneAll)
	}
	var wanted []string
	for _, field := range cacheFields {
		for _, v := range f.values(field) {
			operator := "=="
			if field == "id" {
				operator = "~="
			}
			wanted = append(wanted, field+operator+v)
		}
	}
	if len(wanted) > 0 {
		opts = append(opts, client.WithFilter([]string{strings.Join(wanted, ",")}))
	}
	return opts, nil
}

func merged(a, b map[string]bool) map[string]bool {
	if len(a) == 0 {
		return b
	}
	return a
}
