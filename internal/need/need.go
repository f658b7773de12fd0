// Package need says what a test needs of the machine. Without it the test is skipped, with the
// reason, and fails instead when GANTRY_TEST_REQUIRE=all, as continuous integration sets it.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Root needs the test to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Miss(t, "needs root")
	}
}

// Tool needs a program in PATH and returns where it is.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Miss(t, "needs the program "+name+"; `make setup` installs it")
	}
	return path
}

// File needs a file that `make` produces.
func File(t testing.TB, path, target string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Miss(t, "needs "+path+"; `make "+target+"` makes it")
	}
	return path
}

// That needs something to be so, or else the reason says what is missing.
func That(t testing.TB, has bool, reason string) {
	t.Helper()
	if !has {
		Miss(t, reason)
	}
}

// Miss skips, or fails where everything is required.
func Miss(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("GANTRY_TEST_REQUIRE") == "all" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
