package solver

import (
	"os"
	"strings"
	"testing"
)

// What clients are told is what is linked.
func TestBuildkitVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\tgithub.com/moby/buildkit " + BuildkitVersion + "\n"; !strings.Contains(string(mod), want) {
		t.Errorf("go.mod does not have %q", want)
	}
}
