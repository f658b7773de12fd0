package qemu

import (
	"context"
	"log/slog"
	"os"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMain(m *testing.M) {
	MaybeChild()
	if os.Getenv(holderVar) != "" {
		holder()
	}
	os.Exit(m.Run())
}

// fake is a machine made of answers.
type fake struct {
	cpus   []ocispec.Platform
	also   bool // runs the second architecture of its CPU
	host   []entry
	refuse error
	failed map[string]string
	asked  chan []registration
}

func (f fake) native() []ocispec.Platform        { return f.cpus }
func (f fake) runs(context.Context, []byte) bool { return f.also }
func (f fake) entries() ([]entry, error)         { return f.host, nil }
func (f fake) table(_ context.Context, r []registration) (*namespace, error) {
	if f.asked != nil {
		f.asked <- r
	}
	if f.refuse != nil {
		return nil, f.refuse
	}
	user, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	table, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	return &namespace{user: user, table: table, failed: f.failed}, nil
}

func cpu(arch string, variants ...string) []ocispec.Platform {
	all := []ocispec.Platform{{OS: "linux", Architecture: arch}}
	for _, v := range variants {
		all = append(all, ocispec.Platform{OS: "linux", Architecture: arch, Variant: v})
	}
	return all
}

func open(t *testing.T, o Options, k kernel) *Machine {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	m := start(t.Context(), o, k)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
