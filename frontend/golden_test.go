package frontend_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"

	"github.com/gantry-build/gantry/frontend"
)

var update = flag.Bool("update", false, "write the goldens anew")

const updateHint = "when the change is meant, `go test ./frontend -run Golden -update` accepts it"

// goldenPlatforms are the ones that each Dockerfile is compiled for, by the golden's suffix.
var goldenPlatforms = map[string]string{"amd64": "linux/amd64", "armv7": "linux/arm/v7"}

// A case is testdata/golden/NAME.Dockerfile with, when it needs them, NAME.opts (attributes of the
// request, one key=value a line) and NAME.dockerignore. What it must compile to, warnings and errors
// too, is in NAME.amd64.llb and NAME.armv7.llb.
func cases(t testing.TB) []string {
	files, err := filepath.Glob("testdata/golden/*.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 40 {
		t.Fatalf("%d cases: testdata/golden is incomplete", len(files))
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, ".Dockerfile")
	}
	return files
}

// load returns a client with a case's files and attributes.
func load(t testing.TB, name, platform string) *collector {
	c := &collector{attrs: map[string]string{"platform": platform}, files: map[string][]byte{}}
	read := func(suffix string) []byte {
		data, err := os.ReadFile(name + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return data
	}
	c.files["dockerfile/Dockerfile"] = read(".Dockerfile")
	c.files["dockerfile/context"] = []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03") // the archive that a URL gives
	if ignore := read(".dockerignore"); ignore != nil {
		c.files["context/.dockerignore"] = ignore
	}
	for line := range strings.Lines(string(read(".opts"))) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			t.Fatalf("%s.opts: %q is no key=value", name, line)
		}
		c.attrs[key] = value
	}
	return c
}

func (c *collector) compile(ctx context.Context) (*gateway.Result, error) {
	return frontend.Dockerfile(ctx, c)
}

func TestGolden(t *testing.T) {
	for _, name := range cases(t) {
		for suffix, platform := range goldenPlatforms {
			file := name + "." + suffix + ".llb"
			t.Run(filepath.Base(name)+"/"+suffix, func(t *testing.T) {
				c := load(t, name, platform)
				res, err := c.compile(t.Context())
				got, err := render(c, res, err)
				if err != nil {
					t.Fatal(err)
				}
				compare(t, file, got)
			})
		}
	}
}

// A Dockerfile that was checked out with the line ends of Windows is the same build. One that has some of
// them on purpose keeps them.
func TestLineEnds(t *testing.T) {
	for _, name := range cases(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			compiled := func(change func([]byte) []byte) string {
				c := load(t, name, "linux/amd64")
				for _, f := range []string{"dockerfile/Dockerfile", "context/.dockerignore"} {
					if text, ok := c.files[f]; ok {
						c.files[f] = change(text)
					}
				}
				res, err := c.compile(t.Context())
				got, err := render(c, res, err)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			unix := compiled(func(b []byte) []byte { return b })
			if got := compiled(func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }); got != unix {
				t.Errorf("with CRLF (+) it is not what it is with LF (-):\n%s", difference(unix, got))
			}
		})
	}
	c := &collector{attrs: map[string]string{"platform": "linux/amd64"}, files: map[string][]byte{
		"dockerfile/Dockerfile": []byte("FROM scratch\nCOPY <<E /f\nwindows\r\nE\n"),
	}}
	res, err := c.compile(t.Context())
	if got, err := render(c, res, err); err != nil || !strings.Contains(got, `windows\r\n`) {
		t.Errorf("%v\n%s", err, got)
	}
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; %s", err, updateHint)
	}
	if string(want) != got {
		t.Errorf("%s (-) is not what comes out (+):\n%s%s", file, difference(string(want), got), updateHint)
	}
}

// TestGoldenStale finds goldens without a Dockerfile, which would look as if they proved something.
func TestGoldenStale(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*")
	if err != nil {
		t.Fatal(err)
	}
	known := cases(t)
	for _, f := range files {
		name := f[:len("testdata/golden/")+strings.Index(filepath.Base(f), ".")]
		if !slices.Contains(known, name) {
			t.Errorf("%s belongs to no Dockerfile; remove it", f)
		}
	}
}

// TestGoldenTogether: a build for several platforms asks the solver for exactly what the builds for
// each of them ask for, so that they share their cache.
func TestGoldenTogether(t *testing.T) {
	for _, name := range cases(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			single := map[string]bool{}
			failed := false
			for _, platform := range goldenPlatforms {
				c := load(t, name, platform)
				_, err := c.compile(t.Context())
				failed = failed || err != nil
				maps.Copy(single, c.asked())
			}
			c := load(t, name, "linux/amd64,linux/arm/v7")
			_, err := c.compile(t.Context())
			if failed != (err != nil) {
				t.Fatalf("one by one it fails: %v; together: %v", failed, err)
			}
			if err == nil && !maps.Equal(single, c.asked()) {
				t.Errorf("together: %v; one by one: %v", c.asked(), single)
			}
		})
	}
}

// asked are the digests of what the solver was asked for.
func (c *collector) asked() map[string]bool {
	out := map[string]bool{}
	for _, req := range c.solved {
		if def := req.Definition; def != nil && len(def.Def) > 0 {
			out[digest.FromBytes(def.Def[len(def.Def)-1]).String()] = true
		}
	}
	return out
}
