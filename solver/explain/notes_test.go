package explain

import (
	"encoding/json"
	"strconv"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// What one request encodes is not what a build writes meanwhile.
func TestChangesAreReadWhileTheyAreWritten(t *testing.T) {
	n := NewNotes()
	n.begin("session", "build")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20000 {
			n.Changed("build", strconv.Itoa(i%100), []string{"file"})
			n.Runs(digest.FromString(strconv.Itoa(i%100)), "native")
		}
	})
	for range 2000 {
		if _, err := json.Marshal(n.Of("build")); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if got := n.Of("build"); len(got.Changed) != 100 || len(got.How) != 100 {
		t.Errorf("%d directories, %d steps", len(got.Changed), len(got.How))
	}
}

// Only the latest builds and steps are remembered.
func TestNotesAreBounded(t *testing.T) {
	n := NewNotes()
	for i := range keptBuilds + 5 {
		n.begin(strconv.Itoa(i), strconv.Itoa(i))
		n.Changed(strconv.Itoa(i), "context", []string{"f"})
	}
	for i := range keptSteps + 5 {
		n.Runs(digest.FromString(strconv.Itoa(i)), "native")
	}
	if len(n.changed) != keptBuilds || len(n.builds) != keptBuilds || len(n.how) != keptSteps || len(n.steps) != keptSteps {
		t.Errorf("%d of %d builds, %d of %d steps", len(n.changed), len(n.builds), len(n.how), len(n.steps))
	}
	if got := n.Of("0").Changed; got != nil {
		t.Errorf("the oldest is still there: %v", got)
	}
	if got := n.Of(strconv.Itoa(keptBuilds + 4)).Changed["context"]; len(got) != 1 {
		t.Errorf("the newest has gone: %v", got)
	}
}
