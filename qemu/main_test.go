package qemu

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMain(m *testing.M) {
	MaybeChild()
	if emulator := os.Getenv(insideVar); emulator != "" {
		if err := insideNamespace(emulator); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(holderVar) != "" {
		holder()
	}
	os.Exit(m.Run())
}

// fake is a machine made of answers.
type fake struct {
	cpus   []ocispec.Platform
	also   bool // runs the second architecture of its CPU
	broken bool // runs no other, whatever entries it has
	host   []entry
	refuse error
	failed map[string]string
	asked  chan []registration

	shared  *memory // the machine's table
	noTable error
}

func (f fake) native() []ocispec.Platform { return f.cpus }
func (f fake) runs(_ context.Context, program []byte) bool {
	second := map[string]string{"amd64": "386", "arm64": "arm"}[f.cpus[0].Architecture]
	if bytes.Equal(program, tiny(second)) {
		return f.also
	}
	return !f.broken // by an entry of the machine's table
}

func (f fake) entries() ([]entry, error)     { return f.host, nil }
func (f fake) machine() (table, bool, error) { return f.shared, true, f.noTable }
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
