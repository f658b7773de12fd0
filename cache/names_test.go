package cache

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func (l library) text(text string) ocispec.Descriptor {
	return l.blob(ocispec.MediaTypeImageManifest, []byte(fmt.Sprintf(`{"annotations":{"text":%q}}`, text)), nil)
}

func (l library) named(name string, d ocispec.Descriptor) {
	l.t.Helper()
	if err := l.Name(l.ctx, "docker.io/library/"+name, d); err != nil {
		l.t.Fatal(err)
	}
}

// shown is every name with the first digit of what it points to, as named by called.
func (l library) shown(called map[string]ocispec.Descriptor) string {
	l.t.Helper()
	all, err := l.Client.ImageService().List(l.ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	var lines []string
	for _, img := range all {
		for letter, d := range called {
			if d.Digest == img.Target.Digest {
				name, _, _ := strings.Cut(strings.TrimPrefix(img.Name, "docker.io/library/"), "@")
				lines = append(lines, name+"="+letter)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// An image that loses its last name stays, and has no such name any more when it gets another one.
func TestNoImageIsLostWithItsName(t *testing.T) {
	l := newLibrary(t)
	a, b := l.text("a"), l.text("b")
	called := map[string]ocispec.Descriptor{"a": a, "b": b}
	step := func(name string, d ocispec.Descriptor, want string) {
		t.Helper()
		l.named(name, d)
		if got := l.shown(called); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	step("app:1", a, "app:1=a")
	step("app:2", a, "app:1=a app:2=a")
	step("app:1", b, "app:1=b app:2=a")
	step("app:2", b, "app:1=b app:2=b gantry-dangling=a")
	step("app:2", b, "app:1=b app:2=b gantry-dangling=a")
	if img, err := l.Lookup(l.ctx, a.Digest.Encoded()[:12]); err != nil || img.Target.Digest != a.Digest {
		t.Errorf("%+v, %v", img, err)
	}
	step("old:1", a, "app:1=b app:2=b old:1=a")
	rec, err := l.Lookup(l.ctx, "old:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{true, false} {
		if err := l.Unname(l.ctx, rec, keep); err != nil {
			t.Fatal(err)
		}
		if got := l.shown(called); got != "app:1=b app:2=b gantry-dangling=a" {
			t.Errorf("%q", got)
		}
	}
}

// What an image is called in a registry finds it, and neither a pull nor a load of that makes it another one.
func TestPushedFormIsTheSameImage(t *testing.T) {
	l := newLibrary(t)
	a, b, c := l.text("a"), l.text("b"), l.text("c")
	called := map[string]ocispec.Descriptor{"a": a, "b": b, "c": c}
	l.named("app:1", a)
	if err := l.SetPushed(l.ctx, a.Digest, b.Digest); err != nil {
		t.Fatal(err)
	}
	if l.Pushed(l.ctx, a.Digest) != b.Digest || l.Pushed(l.ctx, b.Digest) != b.Digest || l.Pushed(l.ctx, c.Digest) != c.Digest {
		t.Error("pushed forms are mixed up")
	}
	for _, ref := range []string{
		"app:1", a.Digest.String(), b.Digest.String(), b.Digest.Encoded()[:8], "app@" + a.Digest.String(), "app@" + b.Digest.String(),
		"docker.io/library/app:7@" + b.Digest.String(),
	} {
		if img, err := l.Lookup(l.ctx, ref); err != nil || img.Target.Digest != a.Digest {
			t.Errorf("%s: %+v, %v", ref, img.Target, err)
		}
	}
	for _, ref := range []string{"other@" + a.Digest.String(), c.Digest.String(), "app@" + c.Digest.String(), "app:2"} {
		if img, err := l.Lookup(l.ctx, ref); !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "No such image: ") {
			t.Errorf("%s: %+v, %v", ref, img, err)
		}
	}
	l.named("app:1", b)
	if got := l.shown(called); got != "app:1=a" {
		t.Errorf("after a load: %q", got)
	}
	pulled := func(d ocispec.Descriptor, want string) {
		t.Helper()
		old, err := l.Lookup(l.ctx, "app:1")
		if err != nil {
			t.Fatal(err)
		}
		// This is what containerd's client does.
		img, err := l.Client.ImageService().Update(l.ctx, images.Image{Name: old.Name, Target: d})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Pulled(l.ctx, old, img); err != nil {
			t.Fatal(err)
		}
		if now, _ := l.Lookup(l.ctx, "app:1"); l.shown(called) != want || now.Labels[LabelRegistry] != d.Digest.String() {
			t.Errorf("%q, want %q; %v", l.shown(called), want, now.Labels)
		}
	}
	pulled(b, "app:1=a")
	pulled(c, "app:1=c gantry-dangling=a")
	l.named("app:1", a)
	if now, _ := l.Lookup(l.ctx, "app:1"); now.Labels[LabelRegistry] != "" {
		t.Errorf("another image is said to be in the registry: %v", now.Labels)
	}
}
