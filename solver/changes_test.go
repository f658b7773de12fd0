package solver

import (
	"encoding/json"
	"strconv"
	"sync"
	"testing"
)

// What one request encodes is not what a build writes meanwhile.
func TestChangesAreReadWhileTheyAreWritten(t *testing.T) {
	s := &Solver{changes: newChanges()}
	s.changes.begin("session", "build")
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20000 {
			s.changes.note("build", strconv.Itoa(i%100), []string{"file"})
		}
	})
	for range 2000 {
		if _, err := json.Marshal(s.Changes("build")); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if got := len(s.Changes("build")); got != 100 {
		t.Errorf("%d directories", got)
	}
}
