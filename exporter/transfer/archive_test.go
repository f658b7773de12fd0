package transfer

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
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
		if err := w.WriteHeader(&tar.Header{Name: "platform", Mode: 0o644, Size: int64(len(name + p)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, name+p)
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
		if !cache.IsDangling(r.Name) { // as is what was imported for one platform only
			found = append(found, r.Name)
		}
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
	if err := from.Save(t.Context(), []string{"app:1"}, nil, &archive); err != nil {
		t.Fatal(err)
	}
	to := &Mover{Store: cachetest.Start(t)}
	found, err := to.Load(t.Context(), bytes.NewReader(archive.Bytes()), nil)
	if err != nil || len(found) != 1 || found[0].Name != name || found[0].Target.Digest != top.Digest {
		t.Fatalf("%+v, %v; saved %s", found, err, top.Digest)
	}
	opens(t, to.Store, name)
	if _, err := to.Store.DB.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
	opens(t, to.Store, name)
	if err := from.Save(t.Context(), []string{"app:1", "none"}, nil, io.Discard); err == nil {
		t.Error("an image that is not there was saved")
	}
}

// Whatever is wrong with an archive, nothing of it gets a name.
func TestBadArchives(t *testing.T) {
	from, _ := stocked(t, "docker.io/library/app:1")
	var archive bytes.Buffer
	if err := from.Save(t.Context(), []string{"app:1"}, nil, &archive); err != nil {
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
		if found, err := to.Load(t.Context(), bytes.NewReader(data), nil); err == nil {
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
	pushed, err := from.Push(t.Context(), name, nil, Credentials{}, nil)
	if err != nil || pushed.Digest != top.Digest {
		t.Fatalf("pushed %s, %v; want %s", pushed.Digest, err, top.Digest)
	}
	to := &Mover{Store: cachetest.Start(t), Hosts: plain}
	for _, platform := range all {
		p := platforms.MustParse(platform)
		got, newer, err := to.Pull(t.Context(), name, &p, Credentials{}, nil)
		if err != nil || got.Digest != top.Digest || newer != (platform == all[0]) {
			t.Fatalf("pulled %s, new: %v, %v", got.Digest, newer, err)
		}
	}
	opens(t, to.Store, name)
	arm := platforms.MustParse("linux/arm64")
	if _, err := from.Push(t.Context(), name, &arm, Credentials{}, nil); err == nil ||
		!strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("a platform that is not there: %v", err)
	}
	hub.Close()
	_, err = from.Push(t.Context(), name, nil, Credentials{}, nil)
	if err == nil || !strings.Contains(err.Error(), "registry "+host+": nothing listens there") ||
		!strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a registry that is gone: %v", err)
	}
	if got := names(t, from.Store); !slices.Equal(got, []string{name}) {
		t.Errorf("names %v", got)
	}
}

// layout reads what an archive says to readers of OCI layouts and to those of Docker's manifest.json.
func layout(t *testing.T, archive []byte) (index ocispec.Index, manifests []struct {
	Config   string
	RepoTags []string
	Layers   []string
}, blobs []string,
) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err != nil {
			return index, manifests, blobs
		}
		blobs = append(blobs, h.Name)
		var into any
		switch h.Name {
		case "index.json":
			into = &index
		case "manifest.json":
			into = &manifests
		default:
			continue
		}
		if err := json.NewDecoder(r).Decode(into); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
	}
}

// Who reads manifest.json finds one platform of an image: this machine's, or else another that is here.
func TestSavedForOneWhoReadsOnePlatform(t *testing.T) {
	const name = "docker.io/library/app:1"
	m, _ := stocked(t, name)
	save := func(only []ocispec.Platform, names ...string) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := m.Save(t.Context(), names, only, &b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	img := func(platform string) *cache.Image {
		t.Helper()
		p := platforms.MustParse(platform)
		img, err := m.Store.Open(t.Context(), name, &p)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	host := platforms.DefaultSpec()
	_, docker, _ := layout(t, save(nil, name))
	if want := "blobs/sha256/" + img(platforms.Format(host)).ConfigDesc.Digest.Encoded(); len(docker) != 1 || docker[0].Config != want ||
		!slices.Equal(docker[0].RepoTags, []string{"app:1"}) || len(docker[0].Layers) != 1 {
		t.Errorf("%+v, want %s", docker, want)
	}
	arm := platforms.MustParse("linux/arm/v7")
	index, docker, _ := layout(t, save([]ocispec.Platform{arm}, name))
	if want := img("linux/arm/v7"); len(docker) != 1 || docker[0].Config != "blobs/sha256/"+want.ConfigDesc.Digest.Encoded() ||
		len(index.Manifests) != 1 || index.Manifests[0].Digest != want.Manifest.Digest {
		t.Errorf("for arm/v7: %+v, %+v", docker, index)
	}
	id := img(platforms.Format(host)).Target.Digest
	index, docker, _ = layout(t, save(nil, id.String()))
	if len(docker) != 1 || len(docker[0].RepoTags) != 0 || index.Manifests[0].Annotations["io.containerd.image.name"] != "" {
		t.Errorf("saved by its ID: %+v, %+v", docker, index)
	}
	other := platforms.MustParse("linux/s390x")
	if err := m.Save(t.Context(), []string{name}, []ocispec.Platform{arm, other}, io.Discard); !errdefs.IsNotFound(err) ||
		!strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/arm/v7") {
		t.Errorf("a platform that is not there: %v", err)
	}
}

// An image is loaded for the platforms that are asked for, and for no others.
func TestLoadForOnePlatform(t *testing.T) {
	const name = "docker.io/library/app:1"
	from, top := stocked(t, name)
	var archive bytes.Buffer
	if err := from.Save(t.Context(), []string{name}, nil, &archive); err != nil {
		t.Fatal(err)
	}
	arm, other := platforms.MustParse("linux/arm/v7"), platforms.MustParse("linux/s390x")
	to := &Mover{Store: cachetest.Start(t)}
	if found, err := to.Load(t.Context(), bytes.NewReader(archive.Bytes()), []ocispec.Platform{arm, other}); !errdefs.IsNotFound(err) ||
		!strings.Contains(err.Error(), "linux/s390x") || len(names(t, to.Store)) > 0 {
		t.Errorf("a platform that is not there: %v, %v", found, err)
	}
	if _, err := to.Load(t.Context(), bytes.NewReader(archive.Bytes()), []ocispec.Platform{arm}); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Store.DB.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err := to.Store.Lookup(t.Context(), name)
	if err != nil || record.Target.Digest != top.Digest {
		t.Fatalf("%+v, %v", record, err)
	}
	here, err := to.Store.Manifests(t.Context(), record)
	if err != nil || len(here) != 1 || platforms.Format(here[0].Platform) != "linux/arm/v7" {
		t.Errorf("%+v, %v", here, err)
	}
	// And what is here of it can be saved, also beside an image that has what this one lacks.
	more, _ := stocked(t, "docker.io/library/more:1")
	archive.Reset()
	if err := more.Save(t.Context(), []string{"more:1"}, nil, &archive); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Load(t.Context(), &archive, nil); err != nil {
		t.Fatal(err)
	}
	archive.Reset()
	if err := to.Save(t.Context(), []string{"app:1"}, nil, &archive); err != nil {
		t.Fatal(err)
	}
	if _, docker, _ := layout(t, archive.Bytes()); len(docker) != 1 ||
		docker[0].Config != "blobs/sha256/"+here[0].ConfigDesc.Digest.Encoded() {
		t.Errorf("%+v", docker)
	}
	if err := to.Save(t.Context(), []string{"app:1", "more:1"}, nil, io.Discard); err != nil {
		t.Errorf("two images of other platforms: %v", err)
	}
}
