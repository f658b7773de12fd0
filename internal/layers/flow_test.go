package layers

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/flow.md walks the code by the names of its files and folders, which are there.
func TestFlowNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile("../../docs/flow.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, m := range regexp.MustCompile("`([a-z]+(?:/[a-z_]+)+(?:\\.go)?)`").FindAllStringSubmatch(string(text), -1) {
		room, _, _ := strings.Cut(m[1], "/")
		if _, ours := rooms[room]; !ours {
			continue
		}
		named++
		if _, err := os.Stat(filepath.Join("../..", m[1])); err != nil {
			t.Errorf("docs/flow.md names %s, which is not there", m[1])
		}
	}
	if named < 30 {
		t.Errorf("docs/flow.md names %d files and folders", named)
	}
}
