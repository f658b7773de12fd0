package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/check"
)

func TestFindings(t *testing.T) {
	var out bytes.Buffer
	if !printFindings(&out, []check.Finding{check.OK("kernel", "Linux 6.1")}) || out.String() != "ok  kernel  Linux 6.1\n" {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	all := []check.Finding{check.OK("kernel", "Linux 6.1"), {Subject: "clock", Text: "it is 1970", Next: "run: date"}}
	if printFindings(&out, all) || !strings.HasSuffix(out.String(), "mend  clock   it is 1970; run: date\n") {
		t.Errorf("%q", out.String())
	}
	if err := all[1].Error(); err == nil || err.Error() != "it is 1970; run: date" {
		t.Errorf("as a refusal: %v", err)
	}
}

func TestChecks(t *testing.T) {
	for _, c := range []struct {
		got  check.Finding
		next string // "" is ok
	}{
		{checkKernel("6.1.0-41-amd64"), ""},
		{checkKernel("4.18.0-553.el8"), "take 5.10 or newer"},
		{checkClock(time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC)), "timedatectl"},
		{checkClock(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)), ""},
		{checkDisk("/proc"), "run gantry prune"}, // a file system of no size
	} {
		if (c.next == "") != (c.got.Next == "") || !strings.Contains(c.got.Next, c.next) {
			t.Errorf("%+v, want %q", c.got, c.next)
		}
	}
}
