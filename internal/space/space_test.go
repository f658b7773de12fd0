package space

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	free, err := Free(dir)
	if err != nil || free <= 0 {
		t.Fatal(free, err)
	}
	if err := Check(dir, free/2, "it"); err != nil {
		t.Error(err)
	}
	err = Check(dir, 1<<60, "the image x")
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "the image x takes at least 1.153EB, and "+dir+" has ") {
		t.Error(err)
	}
}
