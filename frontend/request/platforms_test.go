package request

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
)

func TestPlatforms(t *testing.T) {
	local := platforms.Format(platforms.Normalize(platforms.DefaultSpec()))
	for _, c := range []struct {
		values []string
		want   string
	}{
		{nil, ""},
		{[]string{"linux/amd64,linux/arm/v7"}, "linux/amd64 linux/arm/v7"},
		{[]string{"linux/arm64", "linux/arm64/v8, linux/386"}, "linux/arm64 linux/386"},
		{[]string{"local"}, local},
		{[]string{"linux/s390x,local"}, "linux/s390x " + local},
		{[]string{"local", local}, local},
	} {
		got, err := Platforms(c.values)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%q is %q, %v; want %q", c.values, got, err, c.want)
		}
	}
	for _, bad := range []string{"linux/amd46", "beos/amd64", "linux/", "a/b/c/d", ""} {
		if got, err := Platforms([]string{bad}); err == nil || !strings.Contains(err.Error(), "--platform") {
			t.Errorf("%q is %q, %v", bad, got, err)
		}
	}
	if all, err := Platforms([]string{"linux/amd64"}); err != nil || !slices.Equal(all, []string{"linux/amd64"}) {
		t.Errorf("%q, %v", all, err)
	}
}
