package transfer

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/cachetest"
	"github.com/gantry-build/gantry/exporter/rootfs"
)

var all = []string{"linux/amd64", "linux/arm/v7"}

// stocked is a store with an image of both platforms under name.
func stocked(t *testing.T, name string) (*Mover, ocispec.Descriptor) {
	t.Helper()
	s := cachetest.Start(t)
	var top ocispec.Descriptor
	for _, p := range all {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "platform", Mode: 0o644, Size: int64(len(p)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, p)
		_ = w.Close()
		var err error
		if top, err = rootfs.Import(t.Context(), s, &b, rootfs.Options{Name: name, Platform: platforms.MustParse(p)}); err != nil {
			t.Fatal(err)
		}
	}
	return &Mover{Store: s}, top
}

func names(t *testing.T, s *cache.Store) (found []string) {
	t.Helper()
	records, err := s.Client.ImageService().List(cache.WithNamespace(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		found = append(found, r.Name)
	}
	return found
}

func opens(t *testing.T, s *cache.Store, ref string) {
	t.Helper()
	for _, platform := range all {
		p := platforms.MustParse(platform)
		if img, err := s.Open(t.Context(), ref, &p); err != nil || img.Snapshot == "" {
			t.Errorf("%s for %s: %v", ref, platform, err)
		}
	}
}

// An archive carries every platform, and is the same image in another store.
func TestSaveAndLoad(t *testing.T) {
	const name = "docker.io/library/app:1"
	from, top := stocked(t, name)
	var archive bytes.Buffer
	if err := from.Save(t.Context(), []string{"app:1"}, &archive); err != nil {
		t.Fatal(err)
	}
	to := &Mover{Store: cachetest.Start(t)}
	found, err := to.Load(t.Context(), bytes.NewReader(archive.Bytes()))
	if err != nil || len(found) != 1 || found[0].Name != name || found[0].Target.Digest != top.Digest {
		t.Fatalf("%+v, %v; saved %s", found, err, top.Digest)
	}
	opens(t, to.Store, name)
	if _, err := to.Store.DB.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
	opens(t, to.Store, name)
	if err := from.Save(t.Context(), []string{"app:1", "none"}, io.Discard); err == nil {
		t.Error("an image that is not there was saved")
	}
}

// Whatever is wrong with an archive, nothing of it gets a name.
func TestBadArchives(t *testing.T) {
	from, _ := stocked(t, "docker.io/library/app:1")
	var archive bytes.Buffer
	if err := from.Save(t.Context(), []string{"app:1"}, &archive); err != nil {
		t.Fatal(err)
	}
	whole := archive.Bytes()
	without := func(name string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for r := tar.NewReader(bytes.NewReader(whole)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if strings.Contains(h.Name, name) {
				continue
			}
			_ = w.WriteHeader(h)
			_, _ = io.Copy(w, r)
		}
		_ = w.Close()
		return b.Bytes()
	}
	layer := ""
	var largest int64
	for r := tar.NewReader(bytes.NewReader(whole)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if strings.HasPrefix(h.Name, "blobs/") && h.Size > largest {
			layer, largest = h.Name, h.Size
		}
	}
	forged := bytes.Replace(whole, []byte(`"rootfs"`), []byte(`"rootfz"`), 1)
	for what, data := range map[string][]byte{
		"nothing": nil, "no tar": []byte(strings.Repeat("x", 4096)), "half": whole[:len(whole)/2], "no index": without("index.json"),
		"a blob less": without(layer), "another blob than its name says": forged,
	} {
		to := &Mover{Store: cachetest.Start(t)} // with no blob of another case
		if found, err := to.Load(t.Context(), bytes.NewReader(data)); err == nil {
			t.Errorf("%s was loaded as %v", what, found)
		}
		if left := names(t, to.Store); len(left) > 0 {
			t.Errorf("%s left: %v", what, left)
		}
	}
}

// What is pushed comes back as it was, to a store that has nothing of it.
func TestPushAndPull(t *testing.T) {
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer hub.Close()
	host := strings.TrimPrefix(hub.URL, "http://")
	name := host + "/team/app:1"
	from, top := stocked(t, name)
	plain := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))
	from.Hosts = plain
	pushed, err := from.Push(t.Context(), name, nil, Credentials{}, func(string, string) {})
	if err != nil || pushed.Digest != top.Digest {
		t.Fatalf("pushed %s, %v; want %s", pushed.Digest, err, top.Digest)
	}
	to := &Mover{Store: cachetest.Start(t), Hosts: plain}
	for _, platform := range all {
		p := platforms.MustParse(platform)
		img, err := to.Pull(t.Context(), name, &p, Credentials{}, func(string, string) {})
		if err != nil || img.Target.Digest != top.Digest {
			t.Fatalf("pulled %+v, %v", img, err)
		}
	}
	opens(t, to.Store, name)
	arm := platforms.MustParse("linux/arm64")
	if _, err := from.Push(t.Context(), name, &arm, Credentials{}, func(string, string) {}); err == nil ||
		!strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("a platform that is not there: %v", err)
	}
	hub.Close()
	_, err = from.Push(t.Context(), name, nil, Credentials{}, func(string, string) {})
	if err == nil || !strings.Contains(err.Error(), "registry "+host+": nothing listens there") ||
		!strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a registry that is gone: %v", err)
	}
	if got := names(t, from.Store); !slices.Equal(got, []string{name}) {
		t.Errorf("names %v", got)
	}
}
