package image

import (
	"context"
	"strings"
	"testing"

	"github.com/moby/buildkit/exporter"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/exporter/attest"
)

// asked is BuildKit's exporter that only notes what it was asked for.
type asked struct{ attrs map[string]string }

func (a *asked) Resolve(_ context.Context, _ int, attrs map[string]string) (exporter.ExporterInstance, error) {
	a.attrs = attrs
	return nil, nil
}

func resolve(t *testing.T, attrs map[string]string) (*asked, *instance, error) {
	t.Helper()
	a := &asked{}
	inst, err := New(Options{Stock: a}).Resolve(t.Context(), 0, attrs)
	if err != nil {
		return a, nil, err
	}
	return a, inst.(*instance), nil
}

func TestNames(t *testing.T) {
	const sum = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, c := range []struct{ name, byDigest, want string }{
		{"app", "", "docker.io/library/app:latest"},
		{"app:1,registry.lan:5000/app", "", "docker.io/library/app:1,registry.lan:5000/app:latest"},
		{"app" + sum, "", "docker.io/library/app" + sum},
		{"registry.lan/app", "true", "registry.lan/app"},
		{"app", "true", "docker.io/library/app"},
		{"app", "false", "docker.io/library/app:latest"},
		{"*", "", "*"},
	} {
		attrs := map[string]string{"name": c.name, "push": "true"}
		if c.byDigest != "" {
			attrs["push-by-digest"] = c.byDigest
		}
		a, _, err := resolve(t, attrs)
		if err != nil || a.attrs["name"] != c.want {
			t.Errorf("%s, by digest %q: %s, %v", c.name, c.byDigest, a.attrs["name"], err)
		}
	}
}

// What BuildKit's exporter would do too early is kept from it, and what it does not know is taken out.
func TestWhatBuildKitIsAsked(t *testing.T) {
	a, inst, err := resolve(t, map[string]string{"name": "app", "store": "true", OptKeySquash: "true",
		attest.OptKeyLayout: attest.LayoutReferrers})
	if err != nil || a.attrs["store"] != "false" || !inst.store || !inst.squash || !inst.referrers || inst.push || inst.compress {
		t.Errorf("%v, %+v, %v", a.attrs, inst, err)
	}
	for _, own := range []string{OptKeySquash, attest.OptKeyLayout, OptKeySharedLayers} {
		if _, ok := a.attrs[own]; ok {
			t.Errorf("BuildKit is asked for %s", own)
		}
	}
	if a, _, _ := resolve(t, nil); a.attrs["dangling-name-prefix"] != cache.DanglingPrefix {
		t.Errorf("a result without a name: %v", a.attrs)
	}
	if a, inst, _ := resolve(t, map[string]string{"push": "", "store": "false"}); a.attrs["dangling-name-prefix"] != "" || !inst.push ||
		inst.store || !inst.compress {
		t.Errorf("pushed and not kept: %v, %+v", a.attrs, inst)
	}
	for _, key := range []string{"compression", "rewrite-timestamp", OptKeySharedLayers} {
		if a, inst, _ := resolve(t, map[string]string{key: "true"}); !inst.stock || a.attrs[OptKeySharedLayers] != "" {
			t.Errorf("%s is BuildKit's own work: %v", key, a.attrs)
		}
	}
}

func TestBadAttributes(t *testing.T) {
	for key, value := range map[string]string{
		"store": "perhaps", "name": "UPPER CASE", OptKeySquash: "much", attest.OptKeyLayout: "here", "push-by-digest": "2",
	} {
		if _, _, err := resolve(t, map[string]string{key: value}); err == nil || !strings.Contains(err.Error(), key) ||
			!strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
}
