package command

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestComposeErrorsHaveAPlace(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("compose.yaml", "x-a: &a\n  image: a\nservices:\n"+
		"  web.1:\n    <<: *a\n    image: ${X\n    ports:\n      - 80\n  db: *a\n")
	second := write("override.yaml", "services:\n  db:\n    restart: never\n")
	broken := write("broken.yaml", "services:\n  a: [\n")
	for says, want := range map[string]string{
		"invalid interpolation format for services.web.1.image.\nYou may": first + ":6: ",
		"services.web.1.ports[0] is wrong":                                first + ":7: ",
		"services.web.1.ports.[0] is wrong":                               first + ":7: ",
		"services.db.restart must be one of":                              second + ":3: ",
		"services.db.none":                                                "",
		"the daemon has gone":                                             "",
	} {
		err := withPlace(errors.New(says), []string{first, second})
		if got := strings.TrimSuffix(err.Error(), says); got != want {
			t.Errorf("%q is at %q, want %q", says, got, want)
		}
	}
	if err := withPlace(errors.New("load error at L3.C1: x"), []string{first, broken}); !strings.HasPrefix(err.Error(), broken+":3:1: ") {
		t.Errorf("%v", err)
	}
	err := withPlace(errors.New("validating "+second+": services.db.restart false schema"), nil)
	if !strings.HasPrefix(err.Error(), second+":3: ") {
		t.Errorf("%v", err)
	}
}
