package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/cache/cachetest"
	"github.com/gantry-build/gantry/runner"
)

// shelf is the image half of the API over a store of its own.
type shelf struct {
	*Images
	t *testing.T
}

func newShelf(t *testing.T) shelf {
	s := cachetest.Start(t)
	return shelf{&Images{Store: s, Records: func() []runner.Record { return nil }, Publish: func(runner.Event) {}}, t}
}

func (s shelf) blob(media string, v any) ocispec.Descriptor {
	s.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		data, _ = json.Marshal(v)
	}
	d := ocispec.Descriptor{MediaType: media, Digest: digest.FromBytes(data), Size: int64(len(data))}
	ctx, done, err := s.Store.Client.WithLease(cache.WithNamespace(s.t.Context()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = done(cache.WithNamespace(s.t.Context())) }) // kept until the test ends: it has its own order
	if err := content.WriteBlob(ctx, s.Store.Client.ContentStore(), d.Digest.String(), bytes.NewReader(data), d); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// image is a manifest without layers whose config has labels.
func (s shelf) image(labels map[string]string) ocispec.Descriptor {
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	cfg.Config.Labels = labels
	return s.blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: s.blob(ocispec.MediaTypeImageConfig, cfg),
	})
}

// built is an image whose layer no one has wanted as bytes.
func (s shelf) built() ocispec.Descriptor {
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	return s.blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: s.blob(ocispec.MediaTypeImageConfig, cfg),
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("layer"), Size: 5}},
	})
}

func (s shelf) name(name string, target ocispec.Descriptor) images.Image {
	s.t.Helper()
	is := s.Store.Client.ImageService()
	rec, err := is.Create(cache.WithNamespace(s.t.Context()), images.Image{Name: "docker.io/library/" + name, Target: target})
	if err != nil {
		rec, err = is.Update(cache.WithNamespace(s.t.Context()), images.Image{Name: "docker.io/library/" + name, Target: target})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return rec
}

func (s shelf) names() (all []string) {
	s.t.Helper()
	records, err := s.Store.Client.ImageService().List(cache.WithNamespace(s.t.Context()))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range records {
		all = append(all, strings.TrimPrefix(r.Name, "docker.io/library/"))
	}
	slices.Sort(all)
	return all
}

func (s shelf) prunes(filters string) (image.PruneReport, error) {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(s.t.Context(), "POST", "/images/prune?filters="+url.QueryEscape(filters), nil)
	err := s.prune(w, r)
	var report image.PruneReport
	_ = json.Unmarshal(w.Body.Bytes(), &report)
	return report, err
}

func TestPruneHeedsItsFilters(t *testing.T) {
	for filters, left := range map[string]string{
		``:                       "[plain:1 red:1 redblue:1]",
		`{"dangling":["true"]}`:  "[plain:1 red:1 redblue:1]",
		`{"dangling":["false"]}`: "[]",
		`{"dangling":["false"],"until":["240h"]}`:                  "[plain:1 red:1 redblue:1]",
		`{"dangling":["false"],"until":["0s"]}`:                    "[]",
		`{"dangling":["false"],"label":["red"]}`:                   "[plain:1]",
		`{"dangling":["false"],"label":["red","blue=1"]}`:          "[plain:1 red:1]",
		`{"dangling":["false"],"label":["blue=2"]}`:                "[plain:1 red:1 redblue:1]",
		`{"dangling":["false"],"label!":["red"]}`:                  "[red:1 redblue:1]",
		`{"dangling":{"false":true},"label!":{"blue":true}}`:       "[redblue:1]",
		`{"dangling":["false"],"label":["red"],"label!":["blue"]}`: "[plain:1 redblue:1]",
	} {
		t.Run(filters, func(t *testing.T) {
			s := newShelf(t)
			s.name("plain:1", s.image(nil))
			s.name("red:1", s.image(map[string]string{"red": ""}))
			s.name("redblue:1", s.image(map[string]string{"red": "", "blue": "1"}))
			report, err := s.prunes(filters)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(s.names()); got != left {
				t.Errorf("left are %s, want %s (%+v)", got, left, report)
			}
		})
	}
	s := newShelf(t)
	for _, bad := range []string{`{"dangling":["perhaps"]}`, `{"until":["yesterday"]}`, `{"colour":["red"]}`, `{`} {
		if _, err := s.prunes(bad); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestPruneKeepsWhatContainersUse(t *testing.T) {
	s := newShelf(t)
	used := s.name("used:1", s.image(map[string]string{"a": ""})).Target.Digest.String()
	s.name("free:1", s.image(nil))
	s.name("free:2", s.image(nil))
	s.Records = func() []runner.Record { return []runner.Record{{ID: "c", ImageID: used}} }
	report, err := s.prunes(`{"dangling":["false"]}`)
	if err != nil || fmt.Sprint(s.names()) != "[used:1]" {
		t.Errorf("left are %v, %v", s.names(), err)
	}
	if len(report.ImagesDeleted) != 3 || report.ImagesDeleted[2].Deleted == "" || report.ImagesDeleted[0].Untagged != "free:1" {
		t.Errorf("two names and one image should be gone: %+v", report.ImagesDeleted)
	}
}

// Between looking a name up and deleting it, the name may have come to mean another image.
func TestMovedNameIsNotDeleted(t *testing.T) {
	s := newShelf(t)
	old := s.name("app:1", s.image(nil))
	s.name("app:1", s.image(map[string]string{"new": ""}))
	if err := s.Store.Unname(t.Context(), old, false); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.names()); got != "[app:1]" {
		t.Errorf("left are %s", got)
	}
}

// Broken images are listed beside the whole ones, and can be removed.
func TestBrokenImagesAreListed(t *testing.T) {
	s := newShelf(t)
	s.name("whole:1", s.image(nil))
	s.name("garbage:1", s.blob(ocispec.MediaTypeImageManifest, []byte("{")))
	s.name("half:1", s.blob(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{
		s.image(map[string]string{"half": ""}), s.blob(ocispec.MediaTypeImageManifest, []byte("[")),
	}}))
	s.name("gone:1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("gone"), Size: 4})
	w := httptest.NewRecorder()
	if err := s.list(w, httptest.NewRequestWithContext(t.Context(), "GET", "/images/json", nil)); err != nil {
		t.Fatal(err)
	}
	var all []image.Summary
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil || len(all) != 4 {
		t.Fatalf("%d images, %v", len(all), err)
	}
	for _, a := range all {
		if a.RepoTags[0] == "half:1" && a.Labels["half"] != "" {
			t.Errorf("the whole platform of half:1 is not shown: %+v", a)
		}
	}
	for _, name := range []string{"garbage:1", "gone:1", "half:1"} {
		if err := s.remove(httptest.NewRecorder(),
			httptest.NewRequestWithContext(t.Context(), "DELETE", "/images/x", nil), name); err != nil {
			t.Errorf("removing %s: %v", name, err)
		}
	}
}

func (s shelf) inspects(name string) (image.InspectResponse, error) {
	w := httptest.NewRecorder()
	err := s.inspect(w, httptest.NewRequestWithContext(s.t.Context(), "GET", "/images/x/json", nil), name)
	var out image.InspectResponse
	_ = json.Unmarshal(w.Body.Bytes(), &out)
	return out, err
}

// An image has the digests that registries have of it, and no others: one whose layers are no bytes yet has none.
func TestRepoDigestsAreThoseOfRegistries(t *testing.T) {
	s := newShelf(t)
	target, theirs := s.built(), digest.FromString("what the registry got")
	s.name("app:1", target)
	s.name("app:2", target)
	if got, err := s.inspects("app:1"); err != nil || len(got.RepoDigests) != 0 || len(got.RepoTags) != 2 {
		t.Errorf("built only: %v, %v, %v", got.RepoTags, got.RepoDigests, err)
	}
	for _, name := range []string{"app:1", "app:2", "gone:1"} {
		if err := s.Store.InRegistry(t.Context(), "docker.io/library/"+name, theirs); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.inspects("app:1")
	if want := []string{"app@" + theirs.String()}; err != nil || !slices.Equal(got.RepoDigests, want) {
		t.Errorf("%v, want %v; %v", got.RepoDigests, want, err)
	}
	s.name("other:1", target)
	if again, err := s.inspects("other:1"); err != nil || again.ID != got.ID || !slices.Equal(again.RepoDigests, got.RepoDigests) {
		t.Errorf("under another name it is %s with %v, %v", again.ID, again.RepoDigests, err)
	}
}

// What is removed is what was named: one name, an image with all its names, or what a repository has of it.
func TestRemove(t *testing.T) {
	for _, c := range []struct {
		what     string // ID, digest, or a name
		force    bool
		used     bool
		left     string
		conflict string
	}{
		{what: "app:1", left: "[app:2 other:1]"},
		{what: "ID", left: "[app:1 app:2 other:1]", conflict: "referenced in multiple repositories"},
		{what: "ID", force: true, left: "[]"},
		{what: "app@DIGEST", left: "[other:1]"},
		{what: "app@PUSHED", left: "[other:1]"},
		{what: "other@DIGEST", left: "[app:1 app:2]"},
		{what: "app:1", used: true, left: "[app:2 other:1]"},
		{what: "ID", used: true, force: true, left: "[]"},
	} {
		t.Run(fmt.Sprint(c.what, c.force, c.used), func(t *testing.T) {
			s := newShelf(t)
			target, pushed := s.image(nil), s.image(map[string]string{"pushed": ""})
			for _, n := range []string{"app:1", "app:2", "other:1"} {
				s.name(n, target)
			}
			if err := s.Store.SetPushed(t.Context(), target.Digest, pushed.Digest); err != nil {
				t.Fatal(err)
			}
			if c.used {
				s.Records = func() []runner.Record {
					return []runner.Record{{ID: "0123456789abcdef", ImageID: target.Digest.String()}}
				}
			}
			name := strings.NewReplacer("ID", target.Digest.Encoded()[:12], "DIGEST", target.Digest.String(), "PUSHED",
				pushed.Digest.String()).
				Replace(c.what)
			url := "/images/x?force=" + fmt.Sprint(c.force)
			err := s.remove(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "DELETE", url, nil), name)
			if (c.conflict != "") != (err != nil) || err != nil && !strings.Contains(err.Error(), c.conflict) {
				t.Errorf("%v", err)
			}
			if got := fmt.Sprint(s.names()); got != c.left {
				t.Errorf("left are %s, want %s", got, c.left)
			}
		})
	}
}

// A container's image stays when its last name is taken away by force, and is found by what the container says.
func TestRemovedNameOfAUsedImage(t *testing.T) {
	s := newShelf(t)
	rec := s.name("app:1", s.image(nil))
	s.Records = func() []runner.Record {
		return []runner.Record{{ID: "0123456789abcdef", ImageID: rec.Target.Digest.String()}}
	}
	remove := func(url string) error {
		return s.remove(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "DELETE", url, nil), "app:1")
	}
	if err := remove("/images/x"); err == nil || !strings.Contains(err.Error(), "is using its referenced image") {
		t.Errorf("%v", err)
	}
	if err := remove("/images/x?force=1"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.inspects(rec.Target.Digest.String()); err != nil || len(got.RepoTags) != 0 {
		t.Errorf("%v, %v", got.RepoTags, err)
	}
	if report, err := s.prunes(`{"dangling":["true"]}`); err != nil || len(report.ImagesDeleted) != 0 || len(s.names()) != 1 {
		t.Errorf("pruned %v, %v", report.ImagesDeleted, err)
	}
	s.Records = func() []runner.Record { return nil }
	if report, err := s.prunes(``); err != nil || len(report.ImagesDeleted) != 1 || len(s.names()) != 0 {
		t.Errorf("pruned %v, %v", report.ImagesDeleted, err)
	}
}
