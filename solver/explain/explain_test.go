package explain

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

func run(env ...string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"/bin/sh", "-c", "make"}, Env: env, Cwd: "/"}}}}
}

func source(id string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}
}

// why is what is said of the last step of one build, when another was before it.
type why struct {
	name        string
	now, before []Step
	files       []string
	unknown     bool
	noCache     bool
	how, why    string
}

func reasons() []why {
	base := Step{Digest: "base", Name: "[1/3] FROM debian", Op: source("docker-image://debian@sha256:1"), Ended: true}
	context := Step{Digest: "context", Name: "[internal] load build context", Op: source("local://context"), Ended: true}
	copied := Step{Digest: "copy", Name: "[2/3] COPY . .", Inputs: []digest.Digest{"base", "context"}, Ended: true}
	made := Step{Digest: "make", Name: "[3/3] RUN make", Inputs: []digest.Digest{"copy"}, Op: run("V=1"), Ended: true}
	cached, failed := func(s Step) Step { s.Cached = true; return s }, func(s Step) Step { s.Failed = true; return s }
	return []why{
		{name: "cached", now: []Step{base, cached(made)}, before: []Step{base, made}, how: "cached"},
		{name: "first", now: []Step{base, made}, how: "native, 0s", why: "there is no earlier build of this context in the history"},
		{
			name: "not wanted", now: []Step{base, made}, before: []Step{base, made}, noCache: true,
			how: "native, 0s", why: "the cache was not wanted",
		},
		{
			name: "files", now: []Step{base, context, copied}, before: []Step{base, context, copied}, files: []string{"a", "b (new)"},
			how: "0s", why: "files have changed: a, b (new)",
		},
		{
			name: "many files", now: []Step{base, context, copied}, before: []Step{base, context, copied},
			files: []string{"a", "b", "c", "d", "e", "f", "g"},
			how:   "0s", why: "files have changed: a, b, c, d, e and 2 more",
		},
		{
			name: "unknown files", now: []Step{base, context, copied}, before: []Step{base, context, copied}, unknown: true,
			how: "0s", why: "the files of context may have changed",
		},
		{
			name: "follows", now: []Step{base, context, copied, made}, before: []Step{base, context, copied, made},
			how: "native, 0s", why: "it follows [2/3] COPY . .",
		},
		{
			name: "pruned", now: []Step{base, context, cached(copied), made}, before: []Step{base, context, copied, made},
			how: "native, 0s", why: "its result was not in the cache any more",
		},
		{
			name: "failed before", now: []Step{base, made}, before: []Step{base, failed(made)},
			how: "native, 0s", why: "it has failed in the build before",
		},
		{
			name: "variable", before: []Step{base, cached(copied), made},
			how: "emulated linux/arm/v7, qemu-arm 7, 0s", why: "V=2 was 1; W=3 is new",
			now: []Step{
				base, cached(copied), {Digest: "make2", Name: made.Name, Inputs: made.Inputs, Op: run("V=2", "W=3"), Ended: true},
			},
		},
		{
			name: "instruction", before: []Step{base, copied, made}, how: "0s", why: "the instruction has changed; it was RUN make",
			now: []Step{base, copied, {Digest: "make3", Name: "[3/3] RUN make all", Op: run("V=1"), Ended: true}},
		},
		{
			name: "moved", before: []Step{base, made}, how: "0s", why: "it follows [2/4] RUN new",
			now: []Step{
				base, {Digest: "new", Name: "[2/4] RUN new", Op: run(), Ended: true},
				{Digest: "make3", Name: "[3/4] RUN make", Inputs: []digest.Digest{"new"}, Op: run("V=1"), Ended: true},
			},
		},
		{
			name: "base image", before: []Step{base, made},
			how: "0s", why: "docker-image://debian@sha256:2 has changed: it was docker-image://debian@sha256:1",
			now: []Step{
				{Digest: "base2", Name: base.Name, Op: source("docker-image://debian@sha256:2"), Ended: true},
				{Digest: "make3", Name: made.Name, Inputs: []digest.Digest{"base2"}, Op: run("V=1"), Ended: true},
			},
		},
		{
			name: "not reached", now: []Step{base, {Digest: "make", Name: made.Name, Op: run()}}, before: []Step{base, made},
			how: "not reached",
		},
	}
}

func TestWhy(t *testing.T) {
	how := map[digest.Digest]string{"make": "native", "make2": "emulated linux/arm/v7, qemu-arm 7"}
	for _, c := range reasons() {
		t.Run(c.name, func(t *testing.T) {
			note := Note{How: how}
			if !c.unknown {
				note.Changed = map[string][]string{"context": c.files}
			}
			lines := Build{Steps: c.now, Before: c.before, NoCache: c.noCache, Note: note}.Lines()
			got := lines[len(lines)-1]
			if got.How != c.how || got.Why != c.why {
				t.Errorf("%s: %q, %q; want %q, %q", got.Step, got.How, got.Why, c.how, c.why)
			}
		})
	}
}

func TestOrderOfLines(t *testing.T) {
	lines := Build{Steps: []Step{
		{Digest: "1", Name: "[linux/arm/v7 build 10/10] RUN b"}, {Digest: "2", Name: "[internal] load"},
		{Digest: "3", Name: "[linux/amd64 build 2/10] RUN c\nmore"},
		{Digest: "4", Name: "[linux/arm/v7 build 9/10] RUN a"},
	}}.Lines()
	want := []string{"[linux/amd64 build 2/10] RUN c…", "[linux/arm/v7 build 9/10] RUN a", "[linux/arm/v7 build 10/10] RUN b"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, l := range lines {
		if l.Step != want[i] {
			t.Errorf("line %d is %q, want %q", i, l.Step, want[i])
		}
	}
}
