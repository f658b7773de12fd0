package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/go-archvariant"
	"golang.org/x/sys/unix"

	"github.com/gantry-build/gantry/internal/memfile"
)

// kernel is what the package asks of the machine, so that another machine can be
// put in its place. Its methods may be called at the same time.
type kernel interface {
	// native is the platform of the CPU with its variants, the default first.
	native() []ocispec.Platform
	// runs starts a program and tells whether it ran and ended well.
	runs(ctx context.Context, program []byte) bool
	// entries reads the host's own binfmt_misc table.
	entries() ([]entry, error)
	// table makes a user namespace whose own table holds the entries. Its error
	// is a reason for the user; an entry that was not taken is in failed.
	table(ctx context.Context, entries []registration) (*namespace, error)
	// machine opens the machine's own table, and tells whether emulators can see flag P in it. Its error is
	// a reason for the user.
	machine() (t table, p bool, err error)
}

// registration is an entry to be made in a table of ours.
type registration struct {
	Arch string
	Line string
}

// linux is the running kernel.
type linux struct{}

func (linux) native() []ocispec.Platform {
	first := platforms.Normalize(platforms.DefaultSpec())
	first = ocispec.Platform{OS: first.OS, Architecture: first.Architecture, Variant: first.Variant}
	all := []ocispec.Platform{first}
	if first.Architecture != "amd64" {
		return all
	}
	levels := []string{"v2", "v3", "v4"}
	for _, v := range levels[:slices.Index(levels, archvariant.AMD64Variant())+1] {
		all = append(all, ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: v})
	}
	return all
}

func (linux) entries() ([]entry, error) { return readEntries(hostTable) }

func (linux) runs(ctx context.Context, program []byte) bool {
	file, err := memfile.New("gantry-probe", false)
	if err != nil {
		return false
	}
	defer file.Close()
	if _, err := file.Write(program); err != nil {
		return false
	}
	// Inherited: most emulators open the program by the path that they are given.
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{file}
	return cmd.Run() == nil
}

// compat finds the second architecture that many CPUs run as well.
func compat(ctx context.Context, k kernel, native []ocispec.Platform) []ocispec.Platform {
	if len(native) == 0 {
		return nil
	}
	arch := map[string]string{"amd64": "386", "arm64": "arm"}[native[0].Architecture]
	t, ok := targetFor(arch)
	if !ok || !k.runs(ctx, tiny(arch)) {
		return nil
	}
	return t.platforms()
}

// privateTables tells whether the running kernel has a table for each user namespace.
func privateTables() bool { return AtLeast(Release(), 6, 7) }

func (linux) machine() (table, bool, error) {
	t, err := withModule(func() (table, error) {
		t, step, err := openTable()
		if err != nil {
			return nil, explain(step, err)
		}
		return t, nil
	})
	return t, AtLeast(Release(), 5, 12), err
}

var (
	errNoBinfmt = errors.New("has no binfmt_misc")
	// errOnlyShared says that private tables are not to be had on this kernel, whatever the user does.
	errOnlyShared = errors.New("has one binfmt_misc table for the whole machine, and 6.7 is the first with private ones")
)

// explain turns the failure of a step of making a table into a reason to refuse.
func explain(step string, err error) error {
	kernel := "kernel " + Release()
	switch {
	case step == stepClone && errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%s allows no further user namespace; raise it with `sysctl user.max_user_namespaces=10000`", kernel)
	case step == stepClone && errors.Is(err, unix.EPERM):
		return errors.New("emulation needs a user namespace, which this user may not make; run the daemon as root")
	case step == stepOpen && errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%s %w", kernel, errNoBinfmt)
	}
	return fmt.Errorf("making a binfmt_misc table on %s: %s: %w", kernel, step, err)
}
