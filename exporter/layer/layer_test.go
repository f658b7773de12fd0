package layer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/cachetest"
	"github.com/gantry-build/gantry/internal/need"
)

// noise is a source of bytes that compress badly, over several blocks.
func noise(n int) ([]byte, Source) {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.IntN(7))
	}
	return data, func(_ context.Context, w io.Writer) error {
		for rest := data; len(rest) > 0; {
			k := min(len(rest), 4097)
			if _, err := w.Write(rest[:k]); err != nil {
				return err
			}
			rest = rest[k:]
		}
		return nil
	}
}

func TestMeasuredAndCompressedAreOneLayer(t *testing.T) {
	s := cachetest.Start(t)
	ctx, done, err := s.Client.WithLease(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = done(ctx) }()
	cs := s.Client.ContentStore()
	for _, n := range []int{0, 1, blockSize - 1, blockSize, 3*blockSize + 17} {
		data, src := noise(n)
		plain, err := Measure(ctx, src)
		if err != nil {
			t.Fatal(err)
		}
		if want := digest.FromBytes(data); plain.Digest != want || DiffID(plain) != want || plain.Size != int64(n) ||
			plain.MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("%d bytes measured as %+v", n, plain)
		}
		packed, err := Gzip(ctx, cs, src)
		if err != nil {
			t.Fatal(err)
		}
		if DiffID(packed) != plain.Digest || packed.MediaType != ocispec.MediaTypeImageLayerGzip {
			t.Errorf("%d bytes compressed as %+v", n, packed)
		}
		blob, err := content.ReadBlob(ctx, cs, packed)
		if err != nil || int64(len(blob)) != packed.Size || digest.FromBytes(blob) != packed.Digest {
			t.Fatalf("the blob: %v", err)
		}
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := io.ReadAll(z); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%d bytes came back as %d, %v", n, len(back), err)
		}
	}
}

// The bytes do not depend on how many cores compress them, or a push from another machine would be
// another image.
func TestSameBytesOnAnyNumberOfCores(t *testing.T) {
	s := cachetest.Start(t)
	ctx, done, err := s.Client.WithLease(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = done(ctx) }()
	_, src := noise(5*blockSize + 3)
	digests := map[digest.Digest]bool{}
	for _, cores := range []int{1, 2, 7} {
		old := runtime.GOMAXPROCS(cores)
		d, err := Gzip(ctx, s.Client.ContentStore(), src)
		runtime.GOMAXPROCS(old)
		if err != nil {
			t.Fatal(err)
		}
		digests[d.Digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("%d digests of one layer", len(digests))
	}
}

func TestABrokenSourceLeavesNoBlob(t *testing.T) {
	s := cachetest.Start(t)
	ctx := cache.WithNamespace(t.Context())
	broken := errors.New("broken")
	src := func(_ context.Context, w io.Writer) error {
		_, _ = w.Write(make([]byte, 2*blockSize))
		return broken
	}
	if _, err := Measure(ctx, src); !errors.Is(err, broken) {
		t.Errorf("measuring: %v", err)
	}
	if _, err := Gzip(ctx, s.Client.ContentStore(), src); !errors.Is(err, broken) {
		t.Errorf("compressing: %v", err)
	}
	err := s.Client.ContentStore().Walk(ctx, func(info content.Info) error {
		t.Errorf("left: %s", info.Digest)
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
}

func TestBetweenTrees(t *testing.T) {
	need.Root(t)
	lower, upper := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{lower + "/same": "1", lower + "/gone": "1", lower + "/changed": "1", upper + "/changed": "22",
		upper + "/dir/new": "3"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(lower+"/same", upper+"/same"); err != nil { // the same inode: unchanged
		t.Fatal(err)
	}
	bind := func(dir string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}
	}
	var tar bytes.Buffer
	if err := Between(bind(lower), bind(upper))(t.Context(), &tar); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"changed": true, "dir/new": true, ".wh.gone": true, "same": false} {
		if got := bytes.Contains(tar.Bytes(), append([]byte(name), 0)); got != want {
			t.Errorf("%s in the layer: %v", name, got)
		}
	}
}

func BenchmarkGzip(b *testing.B) {
	s := cachetest.Start(b)
	ctx := cache.WithNamespace(b.Context())
	data, src := noise(16 * blockSize)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Gzip(ctx, s.Client.ContentStore(), src); err != nil {
			b.Fatal(err)
		}
	}
}
