package process

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/runner/spec"
)

func TestHealth(t *testing.T) {
	h := Health{Status: "starting"}
	steps := []struct {
		code     int
		starting bool
		want     string
	}{
		{1, true, "starting"}, {1, true, "starting"}, {1, false, "starting"}, {1, false, "unhealthy"},
		{0, false, "healthy"}, {-1, false, "healthy"}, {1, false, "unhealthy"},
	}
	for i, s := range steps {
		if h = h.After(Probe{ExitCode: s.code}, 2, s.starting); h.Status != s.want {
			t.Errorf("step %d: %+v, want %s", i, h, s.want)
		}
	}
	if len(h.Log) != probesKept {
		t.Errorf("%d probes kept", len(h.Log))
	}
	shell := []string{"/bin/bash", "-c"}
	got := probeArgs(spec.Config{Shell: shell, Healthcheck: &spec.Healthcheck{Test: []string{"CMD-SHELL", "true"}}})
	if !slices.Equal(got, []string{"/bin/bash", "-c", "true"}) || len(shell) != 2 {
		t.Error(got)
	}
	if probeArgs(spec.Config{Healthcheck: &spec.Healthcheck{Test: []string{"NONE"}}}) != nil {
		t.Error("NONE runs")
	}
}

// This test's own row of ps -ef.
func TestTopOfOneself(t *testing.T) {
	row, err := procRow(os.Getpid(), map[uint64]string{uint64(os.Getuid()): "me"})
	if err != nil || len(row) != 8 || row[0] != "me" || row[1] != strconv.Itoa(os.Getpid()) || row[2] != strconv.Itoa(os.Getppid()) {
		t.Errorf("%q, %v", row, err)
	}
	if !strings.Contains(row[7], filepath.Base(os.Args[0])) || row[4] != time.Now().Format("15:04") && time.Now().Second() > 10 {
		t.Errorf("%q", row)
	}
	if _, err := procRow(1<<22+1, nil); err == nil {
		t.Error("a process that can't be has a row")
	}
}
