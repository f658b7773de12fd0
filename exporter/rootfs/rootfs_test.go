package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/cachetest"
)

const name = "docker.io/library/base:1"

func archive(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "etc/name", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg, ModTime: time.Unix(1_700_000_000, 0)}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func options(platform string) Options {
	o := Options{Name: name, Platform: platforms.MustParse(platform)}
	o.Config.Cmd = []string{"sh"}
	return o
}

func names(t *testing.T, s *cache.Store) (all []string) {
	t.Helper()
	records, err := s.Client.ImageService().List(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		all = append(all, r.Name)
	}
	return all
}

// Platforms imported under one name become one image; the same tar gives the same image, however it was
// compressed, and in whatever order.
func TestImport(t *testing.T) {
	s := cachetest.Start(t)
	text := archive(t, "one")
	var zipped, zstded bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(text)
	_ = z.Close()
	zs, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = zs.Write(text)
	_ = zs.Close()
	digests := map[string]bool{}
	for _, data := range [][]byte{text, zipped.Bytes(), zstded.Bytes()} {
		d, err := Import(t.Context(), s, bytes.NewReader(data), options("linux/amd64"))
		if err != nil {
			t.Fatal(err)
		}
		digests[d.Digest.String()] = true
	}
	if len(digests) != 1 {
		t.Errorf("one tar, three compressions: %v", digests)
	}
	both, err := Import(t.Context(), s, bytes.NewReader(archive(t, "two")), options("linux/arm/v7"))
	if err != nil {
		t.Fatal(err)
	}
	for platform, want := range map[string]string{"linux/amd64": "amd64", "linux/arm/v7": "arm"} {
		p := platforms.MustParse(platform)
		img, err := s.Open(t.Context(), name, &p)
		if err != nil || img.Config.Architecture != want || img.Config.Config.Cmd[0] != "sh" ||
			!img.Config.Created.Equal(time.Unix(1_700_000_000, 0)) {
			t.Errorf("%s: %+v, %v", platform, img, err)
		}
	}
	again, err := Import(t.Context(), s, bytes.NewReader(text), options("linux/amd64"))
	if err != nil || again.Digest != both.Digest {
		t.Errorf("imported again: %s, then %s, %v", both.Digest, again.Digest, err)
	}
}

func TestBadArchivesLeaveNothing(t *testing.T) {
	s := cachetest.Start(t)
	whole := archive(t, strings.Repeat("x", 5000))
	for what, data := range map[string][]byte{
		"no tar": []byte(strings.Repeat("no tar ", 200)), "half": whole[:2000],
		"half a gzip": {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1},
	} {
		if d, err := Import(t.Context(), s, bytes.NewReader(data), options("linux/amd64")); err == nil {
			t.Errorf("%s became %s", what, d.Digest)
		}
	}
	if left := names(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
