package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkBuildsAgainstBuildkitd compares builds that are mostly cache and context: ten steps over
// many files, unchanged, with one file changed, and cold. COMPARE_ROUNDS is the number of cold builds
// (default 3).
func BenchmarkBuildsAgainstBuildkitd(b *testing.B) {
	rounds, _ := strconv.Atoi(os.Getenv("COMPARE_ROUNDS"))
	if rounds == 0 {
		rounds = 3
	}
	hub := newHub(b)
	g := hub.gantry()
	p := &peer{b: b, hub: hub}
	p.start()
	defer p.stop()
	var rows []row

	small := tree(b, 5_000)
	rows = append(rows,
		compare(b, g, p, "unchanged build, ten steps, 5,000 files", small, 10, nil),
		compare(b, g, p, "one file of 5,000 changed", small, 5, func(i int) { touch(b, small, i) }))

	big := tree(b, 50_000)
	cold := row{name: "50,000 files, sent for the first time"}
	for range rounds {
		copied := tree(b, 50_000)
		cold.gantry = append(cold.gantry, timed(func() { g.run("build", "-q", "-t", "big", copied) }))
		cold.peer = append(cold.peer, timed(func() { p.build(copied, "linux/amd64", "type=image,name=big") }))
		// The next tree is new for both sides, but BuildKit compares it with the last one of its name.
	}
	rows = append(rows, cold, compare(b, g, p, "unchanged build, ten steps, 50,000 files", big, 5, nil))

	stages := row{name: "cold multi-stage build"}
	for i := range rounds {
		d := multiStage(b, i)
		stages.gantry = append(stages.gantry, timed(func() { g.run("build", "-q", "-t", "stages", d) }))
		stages.peer = append(stages.peer, timed(func() { p.build(d, "linux/amd64", "type=image,name=stages") }))
	}
	report(b, "builds", "buildkitd + buildctl", append(rows, stages))
}

// compare builds dir once on both sides, and then n times in turn, after change.
func compare(b *testing.B, g *gantry, p *peer, name, dir string, n int, change func(i int)) row {
	r := row{name: name}
	ours := func() { g.run("build", "-q", "-t", "compared", dir) }
	theirs := func() { p.build(dir, "linux/amd64", "type=image,name=compared") }
	time.Sleep(3 * time.Second) // the files are older than a tick of the clock, as in life
	ours()
	theirs()
	for i := range n {
		if change != nil {
			change(i)
			time.Sleep(time.Second)
		}
		r.gantry = append(r.gantry, timed(ours))
		r.peer = append(r.peer, timed(theirs))
	}
	return r
}

// tree is a context of n small files and ten steps.
func tree(b *testing.B, n int) string {
	d := b.TempDir()
	var text strings.Builder
	text.WriteString("FROM debian:bookworm-slim\nWORKDIR /app\nCOPY src /app/src\n")
	for i := range 8 {
		fmt.Fprintf(&text, "RUN echo %d > /step%[1]d\n", i)
	}
	for i := range n {
		sub := filepath.Join(d, "src", strconv.Itoa(i%50))
		if i < 50 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, strconv.Itoa(i)), []byte(strings.Repeat("x", i%3000)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(d, "Dockerfile"), []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	return d
}

func touch(b *testing.B, dir string, i int) {
	if err := os.WriteFile(filepath.Join(dir, "src", "7", "7"), []byte(strings.Repeat("y", i+1)), 0o644); err != nil {
		b.Fatal(err)
	}
}

// multiStage is a build with three stages that run side by side and one that takes from them.
func multiStage(b *testing.B, i int) string {
	var text strings.Builder
	for s := range 3 {
		fmt.Fprintf(&text, "FROM debian:bookworm-slim AS s%d\nRUN echo %d.%d; cp -a /usr/lib/x86_64-linux-gnu /out && tar -cf /out.tar "+
			"/out && gzip -1 /out.tar\n", s, i, s)
	}
	text.WriteString("FROM debian:bookworm-slim\n")
	for s := range 3 {
		fmt.Fprintf(&text, "COPY --from=s%d /out.tar.gz /%[1]d.tar.gz\n", s)
	}
	text.WriteString("RUN ls -l /*.gz > /list\n")
	return dir(b, map[string]string{"Dockerfile": text.String()})
}
