package solver_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/exporter"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/image"
	"github.com/gantry-build/gantry/exporter/trust"
	"github.com/gantry-build/gantry/frontend/tree"
	"github.com/gantry-build/gantry/internal/need"
	"github.com/gantry-build/gantry/qemu"
	"github.com/gantry-build/gantry/solver"
)

// native runs nothing but this machine's own programs.
type native struct{}

func (native) Platforms() []ocispec.Platform {
	return []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())}
}
func (native) Way(p ocispec.Platform) (qemu.Way, error) {
	return qemu.Way{Platform: p, Mode: qemu.Native}, nil
}

type bench struct {
	store  *cache.Store
	solver *solver.Solver
	client *client.Client
}

func start(t testing.TB) *bench {
	t.Helper()
	need.Root(t)
	root, state := t.TempDir(), shortDir(t)
	ctx := t.Context()
	store, err := cache.Start(ctx, cache.Options{Root: root + "/store", State: state, Shim: "/bin/false", Runc: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	s, err := solver.Start(ctx, solver.Options{
		Root: root + "/solver", Store: store, Runc: "/bin/true", Platforms: native{}, Config: &config.Config{},
		Hosts:   trust.New(trust.Options{Root: root}).Hosts,
		Sandbox: func(context.Context) (solver.Sandbox, error) { return nil, errors.New("no step runs in these tests") },
		Gateway: func(context.Context) (netip.Addr, error) { return netip.Addr{}, nil },
		Exporter: func(e solver.Exporting) exporter.Exporter {
			if e.Name != client.ExporterImage {
				return e.Stock
			}
			return image.New(image.Options{Stock: e.Stock, Store: store, Content: e.Content, Leases: e.Leases})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &bench{store, s, dial(t, s)}
}

// shortDir is a directory whose sockets' paths fit into a socket address.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/tmp", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func dial(t testing.TB, s *solver.Solver) *client.Client {
	l := bufconn.Listen(1 << 20)
	go s.Server.Serve(l)
	c, err := client.New(context.Background(), "unix:///none",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); l.Close() })
	return c
}

// request is a build of a directory's Dockerfile.
type request struct {
	dir, file, tag string
	platforms      []string
	noCache        bool
	remote         bool // the daemon does not look at the directory itself
}

func (r request) solveOpt(t testing.TB) client.SolveOpt {
	t.Helper()
	attrs := map[string]string{
		"image-resolve-mode": "local", "filename": cmp.Or(r.file, "Dockerfile"), "platform": strings.Join(r.platforms, ","),
	}
	if r.noCache {
		attrs["no-cache"] = ""
	}
	root, err := fsutil.NewFS(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := tree.Identify(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	key := tree.SharedKey(map[string]tree.Directory{"context": dir, "dockerfile": dir})
	if r.remote {
		key = "elsewhere"
	}
	return client.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   map[string]fsutil.FS{"context": root, "dockerfile": root},
		SharedKey:     key,
		Exports:       []client.ExportEntry{{Type: "moby", Attrs: map[string]string{"name": r.tag}}},
	}
}

func (b *bench) build(t testing.TB, req request) string {
	t.Helper()
	resp, err := b.client.Solve(t.Context(), nil, req.solveOpt(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ExporterResponse["containerimage.digest"]
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The result of a build is an image of the store whose root file system is there without unpacking,
// for every platform, and another build can start FROM it although no layer was ever written.
func TestResultIsAnImageAtOnce(t *testing.T) {
	b := start(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nCOPY d /d\nCMD [\"/a\"]\n", "a": "1", "d/x": "2"})
	all := []string{"linux/amd64", "linux/arm/v7"}
	digest := b.build(t, request{dir: dir, tag: "base", platforms: all})
	for _, p := range all {
		img := b.open(t, "base", p)
		if img.Target.Digest.String() != digest || len(img.Config.RootFS.DiffIDs) != 2 || img.Config.Config.Cmd[0] != "/a" {
			t.Errorf("%s: %+v", p, img)
		}
	}
	write(t, dir, map[string]string{"Dockerfile": "FROM base\nCOPY e /e\n", "e": "3"})
	b.build(t, request{dir: dir, tag: "child", platforms: all})
	if img := b.open(t, "child", "linux/arm/v7"); len(img.Config.RootFS.DiffIDs) != 3 {
		t.Errorf("layers of the child: %v", img.Config.RootFS.DiffIDs)
	}
	if _, err := b.store.DB.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.open(t, "child", "linux/amd64")
}

func (b *bench) open(t testing.TB, ref, platform string) *cache.Image {
	t.Helper()
	p := platforms.MustParse(platform)
	img, err := b.store.Open(t.Context(), ref, &p)
	if err != nil {
		t.Fatal(err)
	}
	if img.Snapshot == "" {
		t.Fatalf("%s for %s has no snapshot", ref, platform)
	}
	return img
}

// What is in the directory is what is built, however fast it changes and whatever else was built
// from it in between.
func TestChangedContextIsSeen(t *testing.T) {
	b := start(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "other": "FROM scratch\nCOPY g /\n", "f": "1", "g": "1"})
	seen := map[string]string{}
	for _, content := range []string{"1", "1", "2", "2", "3", "1"} {
		write(t, dir, map[string]string{"f": content})
		d := b.build(t, request{dir: dir})
		if old, ok := seen[content]; ok && old != d {
			t.Errorf("content %s gave %s, then %s", content, old, d)
		}
		seen[content] = d
		b.build(t, request{dir: dir, file: "other"})
	}
	if seen["1"] == seen["2"] || seen["2"] == seen["3"] {
		t.Errorf("a change went unseen: %v", seen)
	}
}

// BenchmarkUnchangedBuild is the build of a tree of 5,000 files in which nothing has changed.
func BenchmarkUnchangedBuild(b *testing.B) {
	s := start(b)
	dir := b.TempDir()
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /src\n"}
	for i := range 5000 {
		files[filepath.Join("src", string(rune('a'+i%26)), "f"+string(rune('a'+i/26%26))+string(rune('a'+i/676)))] = "x"
	}
	write(b, dir, files)
	req := request{dir: dir, tag: "bench"}
	s.build(b, req)
	s.build(b, req)
	b.ResetTimer()
	for range b.N {
		s.build(b, req)
	}
}

// What the signature has to see: each of these changes only something beside the files' own names.
func TestSubtleChangesAreSeen(t *testing.T) {
	b := start(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY link/file /f\n", "all": "FROM scratch\nCOPY . /\n",
		"real/file": "1", "a b": "1", "a": "1", "b": "1", "all.dockerignore": "a b\n",
	})
	if err := os.Symlink("/real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		change     func() error
	}{
		{"behind an absolute link", "Dockerfile",
			func() error { return os.WriteFile(filepath.Join(dir, "real/file"), []byte("2"), 0o644) }},
		{"ignore file", "all", func() error { return os.WriteFile(filepath.Join(dir, "all.dockerignore"), []byte("a\nb\n"), 0o644) }},
	} {
		req := request{dir: dir, file: c.file}
		time.Sleep(50 * time.Millisecond) // longer than the kernel's clock tick, so that copies are noted
		first := b.build(t, req)
		if again := b.build(t, req); again != first {
			t.Errorf("%s: unchanged, but %s, then %s", c.name, first, again)
		}
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		if after := b.build(t, req); after == first {
			t.Errorf("%s: the change was not seen", c.name)
		}
	}
}

// The same layers on top of other directories: the second image is as good as the first.
func TestSameLayersTwice(t *testing.T) {
	b := start(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nCOPY b /b\n", "a": "1", "b": "1"})
	b.build(t, request{dir: dir, tag: "one"})
	write(t, dir, map[string]string{"b": "2"})
	b.build(t, request{dir: dir, tag: "two", noCache: true})
	b.open(t, "two", "linux/amd64")
	write(t, dir, map[string]string{"Dockerfile": "FROM two\nCOPY a /c\n"})
	b.build(t, request{dir: dir, tag: "three"})
	b.open(t, "three", "linux/amd64")
}
