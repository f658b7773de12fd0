package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// Each way in which a step's input can change is named, natively and emulated.
func TestExplainCache(t *testing.T) {
	g := newGantry(t)
	g.base("linux/amd64", "linux/arm/v7")
	context := dir(t, map[string]string{
		"Dockerfile":    "FROM debian:bookworm-slim\nARG V=1\nRUN echo first\nCOPY src /src\nRUN echo last\n",
		".dockerignore": "src/ignored\n",
		"src/a":         "a", "src/b": "b", "src/ignored": "1",
	})
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(context, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond) // a file changed in the tick in which it is read is read again
	}
	build := func(want map[string]string, flags ...string) {
		t.Helper()
		_, said, err := g.try(append(append([]string{"build", "-q", "--platform", both, "--explain-cache"}, flags...), context)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		for step, why := range want {
			if !regexp.MustCompile(`(?m)^\[` + step + `.* {2,}` + why + ` *$`).MatchString(said) {
				t.Errorf("there is no line for %q with %q in:\n%s", step, why, said)
			}
		}
	}
	none := "there is no earlier build of this context in the history"
	build(map[string]string{"linux/amd64 2/4. RUN": "native, .* " + none,
		"linux/arm/v7 2/4. RUN": "emulated linux/arm/v7, qemu-arm .* " + none})
	build(map[string]string{"linux/amd64 2/4. RUN": "cached", "linux/arm/v7 4/4. RUN": "cached"})
	put("src/ignored", "2")
	build(map[string]string{"linux/amd64 3/4. COPY": "cached"})
	put("src/a", "A")
	put("src/c", "c")
	build(map[string]string{
		"linux/amd64 2/4. RUN": "cached", "linux/amd64 3/4. COPY": "files have changed: src/a, src/c .new.",
		"linux/arm/v7 4/4. RUN": "it follows .linux/arm/v7 3/4. COPY src /src",
	})
	build(map[string]string{"linux/amd64 2/4. RUN": "V=2 was 1"}, "--build-arg", "V=2")
	put("Dockerfile", "FROM debian:bookworm-slim\nARG V=1\nRUN echo second\nCOPY src /src\nRUN echo last\n")
	build(map[string]string{"linux/amd64 2/4. RUN": "the instruction has changed; it was RUN echo first"}, "--build-arg", "V=2")
	build(map[string]string{"linux/amd64 2/4. RUN": "the cache was not wanted"}, "--no-cache", "--build-arg", "V=2")
}
