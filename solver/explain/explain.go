// Package explain says of each step of a build how it came to its result, and, where that was not the
// cache, which of its inputs has changed since the build before: [Build] compares what the two builds' records
// in the [History] hold, with what the daemon has noted meanwhile ([Notes]). A step that runs again has another
// definition, follows a step that gave another result, or reads files that have changed.
package explain

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// Step is a vertex of a build, as progress and provenance tell of it.
type Step struct {
	Digest digest.Digest // of the LLB op, which holds the digests of its inputs
	Name   string        // as the progress shows it: "[stage 2/3] RUN make"
	Inputs []digest.Digest
	Op     *pb.Op // nil where the provenance does not have it
	Cached bool
	Ended  bool // false for what a failed build has not come to
	Failed bool
	Ran    time.Duration
}

// Line is what there is to say of a step.
type Line struct {
	Step string
	How  string // "cached", "native 1.2s", "emulated ..."
	Why  string // empty for what came from the cache
}

// Build is what is to be explained.
type Build struct {
	Steps   []Step
	Before  []Step // of the build before; none when there was none
	Note    Note   // the daemon's, of the build
	NoCache bool   // the build did not want the cache
}

// Lines explains the steps, in the order of platforms, stages and instructions.
func (b Build) Lines() []Line {
	c := &comparison{Build: b, now: index(b.Steps), before: index(b.Before)}
	steps := slices.DeleteFunc(slices.Clone(b.Steps), func(s Step) bool { return !instruction.MatchString(s.Name) })
	slices.SortStableFunc(steps, func(a, b Step) int {
		stageA, noA := place(a.Name)
		stageB, noB := place(b.Name)
		return cmp.Or(cmp.Compare(stageA, stageB), cmp.Compare(noA, noB))
	})
	var lines []Line
	for _, s := range steps {
		l := Line{Step: oneLine(s.Name), How: b.how(s), Why: c.why(s)}
		if s.source() && l.Why == "" && s.Ended && !s.Failed {
			l.How = "cached"
		}
		lines = append(lines, l)
	}
	return lines
}

// place is where a step is: "linux/arm/v7 build " and 2 for "[linux/arm/v7 build 2/3] RUN make".
func place(name string) (stage string, number int) {
	m := instruction.FindStringSubmatch(name)
	if m == nil {
		return name, 0
	}
	number, _ = strconv.Atoi(m[2]) // digits, by the expression
	return m[1], number
}

// instruction matches the names that BuildKit's Dockerfile frontend gives to steps, "[2/3] RUN make",
// as stage, number and text; what is internal has no number.
var instruction = regexp.MustCompile(`(?s)^\[((?:[^\]]* )?)(\d+)/\d+\] (.*)$`)

// OneLine is the first line of a step's name, of at most so many characters; what is cut off shows as "…".
func OneLine(name string, most int) string {
	name, _, more := strings.Cut(name, "\n")
	if r := []rune(name); len(r) > most {
		name, more = string(r[:most-1]), true
	}
	if more {
		name += "…"
	}
	return name
}

func oneLine(name string) string { return OneLine(name, math.MaxInt) }

func (b Build) how(s Step) string {
	switch {
	case s.Cached:
		return "cached"
	case s.Failed:
		return "failed"
	case !s.Ended:
		return "not reached"
	}
	took := s.Ran.Round(100 * time.Millisecond).String()
	if by := b.Note.How[s.Digest]; by != "" {
		return by + ", " + took
	}
	return took
}

// source tells whether a step fetches something. The name says it where there is no op.
func (s Step) source() bool {
	return s.Op.GetSource() != nil || strings.HasPrefix(text(s.Name), "FROM ")
}

// local is the name of the local directory that a step reads, or empty.
func (s Step) local() string {
	if name, ok := strings.CutPrefix(s.Op.GetSource().GetIdentifier(), "local://"); ok {
		return name
	}
	if s.Op == nil && s.Name == "[internal] load build context" {
		return "context"
	}
	return ""
}

type comparison struct {
	Build
	now, before map[digest.Digest]Step
}

func index(steps []Step) map[digest.Digest]Step {
	m := make(map[digest.Digest]Step, len(steps))
	for _, s := range steps {
		m[s.Digest] = s
	}
	return m
}

func (c *comparison) why(s Step) string {
	switch {
	case s.Cached || !s.Ended && !s.Failed:
		return ""
	case s.source():
		return c.whySource(s)
	case c.NoCache:
		return "the cache was not wanted"
	case len(c.before) == 0:
		return "there is no earlier build of this context in the history"
	}
	if old, same := c.before[s.Digest]; same {
		if old.Failed {
			return "it has failed in the build before"
		}
		return c.whyInputs(s)
	}
	old, found := c.counterpart(s)
	if !found {
		return "the instruction is new"
	}
	if text(old.Name) != text(s.Name) {
		return "the instruction has changed; it was " + oneLine(text(old.Name))
	}
	if own := differences(old.Op, s.Op); len(own) > 0 {
		return strings.Join(own, "; ")
	}
	return c.whyInputs(s)
}

func text(name string) string {
	if m := instruction.FindStringSubmatch(name); m != nil {
		return m[3]
	}
	return name
}

// counterpart finds what a step was in the build before: the step of the same text in the same stage,
// else the one in the same place.
func (c *comparison) counterpart(s Step) (at Step, found bool) {
	stage, number := place(s.Name)
	for _, old := range c.Before {
		oldStage, oldNumber := place(old.Name)
		if oldStage != stage {
			continue
		}
		if text(old.Name) == text(s.Name) {
			return old, true
		}
		if oldNumber == number {
			at, found = old, true
		}
	}
	return at, found
}

// whyInputs blames what a step reads.
func (c *comparison) whyInputs(s Step) string {
	var after []string
	for _, d := range s.Inputs {
		in, ok := c.now[d]
		switch {
		case !ok:
		case in.source() || in.local() != "":
			if why := c.whySource(in); why != "" {
				return why
			}
		case !in.Cached:
			after = append(after, oneLine(in.Name))
		}
	}
	if len(after) > 0 {
		return "it follows " + strings.Join(after, " and ")
	}
	return "its result was not in the cache any more"
}

// maxFiles is how many names of changed files a line has.
const maxFiles = 5

// whySource tells how a source differs; empty when it does not, as far as one can see.
func (c *comparison) whySource(s Step) string {
	if name := s.local(); name != "" {
		return c.whyLocal(name)
	}
	id := s.Op.GetSource().GetIdentifier()
	if _, same := c.before[s.Digest]; same || id == "" || len(c.before) == 0 {
		return ""
	}
	ref, _, _ := strings.Cut(id, "@")
	for _, old := range c.Before {
		was := old.Op.GetSource().GetIdentifier()
		if oldRef, _, _ := strings.Cut(was, "@"); was != "" && oldRef == ref && was != id {
			return fmt.Sprintf("%s has changed: it was %s", id, was)
		}
	}
	return id + " was not in the build before"
}

func (c *comparison) whyLocal(name string) string {
	files, known := c.Note.Changed[name]
	switch {
	case !known:
		return "the files of " + name + " may have changed"
	case len(files) == 0:
		return ""
	}
	shown := strings.Join(files[:min(len(files), maxFiles)], ", ")
	if more := len(files) - maxFiles; more > 0 {
		shown += fmt.Sprintf(" and %d more", more)
	}
	return "files have changed: " + shown
}

// differences of two ops themselves, their inputs aside.
func differences(was, is *pb.Op) (found []string) {
	a, b := was.GetExec(), is.GetExec()
	if a == nil || b == nil {
		return nil
	}
	found = append(found, environment(a.Meta.GetEnv(), b.Meta.GetEnv())...)
	for _, f := range []struct{ what, was, is string }{
		{"command", strings.Join(a.Meta.GetArgs(), " "), strings.Join(b.Meta.GetArgs(), " ")},
		{"working directory", a.Meta.GetCwd(), b.Meta.GetCwd()},
		{"user", a.Meta.GetUser(), b.Meta.GetUser()},
		{"host name", a.Meta.GetHostname(), b.Meta.GetHostname()},
		{"network", a.GetNetwork().String(), b.GetNetwork().String()},
		{"security", a.GetSecurity().String(), b.GetSecurity().String()},
		{"mounts", mounts(a), mounts(b)},
	} {
		if f.was != f.is {
			found = append(found, fmt.Sprintf("%s: %q was %q", f.what, f.is, f.was))
		}
	}
	return found
}

func mounts(e *pb.ExecOp) string {
	var all []string
	for _, m := range e.Mounts {
		all = append(all, strings.ToLower(m.MountType.String())+" "+m.Dest)
	}
	return strings.Join(all, ", ")
}

func environment(was, is []string) (found []string) {
	a, b := variables(was), variables(is)
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if v, ok := a[k]; !ok {
			found = append(found, fmt.Sprintf("%s=%s is new", k, b[k]))
		} else if v != b[k] {
			found = append(found, fmt.Sprintf("%s=%s was %s", k, b[k], v))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[k]; !ok {
			found = append(found, k+" is not set any more")
		}
	}
	return found
}

func variables(env []string) map[string]string {
	m := map[string]string{}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		m[k] = v
	}
	return m
}
