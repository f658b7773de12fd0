// Package cachetest gives tests of other rooms a store of their own.
package cachetest

import (
	"os"
	"testing"

	"github.com/gantry-build/gantry/cache"
	"github.com/gantry-build/gantry/internal/need"
)

// Start returns an empty store, which ends with the test. No container can run on it.
func Start(t testing.TB) *cache.Store {
	t.Helper()
	need.Root(t)
	dir, err := os.MkdirTemp("/tmp", "") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := cache.Start(t.Context(), cache.Options{Root: dir + "/r", State: dir + "/s", Shim: "/bin/false", Runc: "/bin/false"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
