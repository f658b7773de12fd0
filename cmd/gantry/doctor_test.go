package main

import (
	"strings"
	"testing"
)

// The doctor finds this machine, on which the tests run, in order, and says of one that is not what to do.
func TestDoctor(t *testing.T) {
	g := newGantry(t)
	for _, daemon := range []string{"none at ", "answers at "} {
		out := g.run("doctor")
		for _, want := range []string{"kernel", "cgroup", "overlayfs", "disk", "emulation", "nftables", "forwarding",
			"firewall", "clock", "daemon"} {
			if !strings.Contains(out, "ok  "+want+" ") {
				t.Errorf("%s is not ok:\n%s", want, out)
			}
		}
		if !strings.Contains(out, daemon) {
			t.Errorf("%q is not in\n%s", daemon, out)
		}
		g.run("ps")
	}
	bad := *g
	bad.env = append(bad.env, "GANTRY_ROOT=/proc/nonesuch")
	out, stderr, err := bad.try("doctor")
	if err == nil || !strings.Contains(out, "mend  overlayfs") || !strings.Contains(out, "with --root") {
		t.Errorf("a root that can't be: %v\n%s%s", err, out, stderr)
	}
}
