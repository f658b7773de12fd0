package resident

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fileBacked is what of this process's memory comes from files, in KiB.
func fileBacked(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile")
	return 0
}

// TestRelease reads all of the program's constants and gives them back: the process holds less, and goes on.
func TestRelease(t *testing.T) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	before := fileBacked(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if after := fileBacked(t); after > before*3/4 {
		t.Errorf("%d KiB of files in memory before, %d after", before, after)
	}
	again, err := os.ReadFile("/proc/self/exe")
	if err != nil || string(again) != string(program) {
		t.Errorf("the program reads otherwise now: %v", err)
	}
}

func TestParse(t *testing.T) {
	all, err := parse(strings.NewReader(`00400000-03305000 r-xp 00000000 fe:00 9978081                            /a b/gantry (deleted)
Size:              48148 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
03305000-03306000 r--p 00000000 fe:00 9978081                            /relocated
Anonymous:             4 kB
7ffd0000-7ffd1000 rw-p 00000000 00:00 0
`))
	want := []mapping{
		{begin: 0x400000, end: 0x3305000, permissions: "r-xp", path: "/a b/gantry (deleted)"},
		{begin: 0x3305000, end: 0x3306000, permissions: "r--p", path: "/relocated", written: true},
		{begin: 0x7ffd0000, end: 0x7ffd1000, permissions: "rw-p", written: true},
	}
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("got %+v, %v; want %+v", all, err, want)
	}
	for _, bad := range []string{"x y", "1-g r-xp 0 0 0", "1-2 r 0 0 0 /f"} {
		if _, err := parse(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken for a mapping", bad)
		}
	}
}
