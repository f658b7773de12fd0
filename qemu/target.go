package qemu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// target is an architecture that an emulator exists for.
type target struct {
	arch    string // as in OCI platforms
	program string // QEMU's name of the emulator
	class   elf.Class
	data    elf.Data
	machine elf.Machine
	listed  []string // variants offered by Machine.Platforms, best first
	also    []string // variants that run as well but are not offered
}

// targets is the catalogue, in the order in which platforms are offered.
func targets() []target {
	le, be := elf.ELFDATA2LSB, elf.ELFDATA2MSB
	return []target{
		{"arm64", "qemu-aarch64", elf.ELFCLASS64, le, elf.EM_AARCH64, []string{""}, nil},
		{"arm", "qemu-arm", elf.ELFCLASS32, le, elf.EM_ARM, []string{"v7", "v6"}, []string{"v5"}},
		{"amd64", "qemu-x86_64", elf.ELFCLASS64, le, elf.EM_X86_64, []string{""}, nil},
		{"386", "qemu-i386", elf.ELFCLASS32, le, elf.EM_386, []string{""}, nil},
		{"riscv64", "qemu-riscv64", elf.ELFCLASS64, le, elf.EM_RISCV, []string{""}, nil},
		{"ppc64le", "qemu-ppc64le", elf.ELFCLASS64, le, elf.EM_PPC64, []string{""}, nil},
		{"s390x", "qemu-s390x", elf.ELFCLASS64, be, elf.EM_S390, []string{""}, nil},
	}
}

func targetFor(arch string) (target, bool) {
	for _, t := range targets() {
		if t.arch == arch {
			return t, true
		}
	}
	return target{}, false
}

// Program is QEMU's name of the emulator for an OCI architecture ("arm64" gives
// "qemu-aarch64"), or "" when the catalogue has none.
func Program(arch string) string {
	t, _ := targetFor(arch)
	return t.program
}

// platforms are the platforms to offer when the target can be run.
func (t target) platforms() []ocispec.Platform {
	var all []ocispec.Platform
	for _, v := range t.listed {
		all = append(all, ocispec.Platform{OS: "linux", Architecture: t.arch, Variant: v})
	}
	return all
}

// runs tells whether programs of a variant run under the target's emulator.
func (t target) runs(variant string) bool {
	for _, v := range append(append([]string{}, t.listed...), t.also...) {
		if v == variant {
			return true
		}
	}
	return false
}

// order is the byte order of the target's programs.
func (t target) order() binary.ByteOrder {
	if t.data == elf.ELFDATA2MSB {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// magic is the start of an executable of the target: e_ident, e_type, e_machine.
func (t target) magic() []byte {
	head := make([]byte, 20)
	copy(head, elf.ELFMAG)
	head[elf.EI_CLASS] = byte(t.class)
	head[elf.EI_DATA] = byte(t.data)
	head[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	t.order().PutUint16(head[16:], uint16(elf.ET_EXEC))
	t.order().PutUint16(head[18:], uint16(t.machine))
	return head
}

// mask frees what differs between programs that run all the same: the OS ABI,
// which GNU programs with indirect functions set to 3, and e_type's lowest bit,
// which tells position independent executables from fixed ones.
func (t target) mask() []byte {
	mask := bytes.Repeat([]byte{0xff}, 20)
	mask[elf.EI_OSABI] = 0
	t.order().PutUint16(mask[16:], 0xfffe)
	return mask
}

// flags of an entry: P keeps argv[0], F opens the emulator now so that no
// container needs it, C takes credentials from the program so that setuid and
// file capabilities work.
const flags = "PFC"

// line is what registers interpreter for the target under a name, in the syntax of
// binfmt_misc's register file: its first byte is the separator of the fields.
func (t target) line(name, interpreter, flags string) (string, error) {
	for _, sep := range []string{":", "|", "!", "#"} {
		if !strings.Contains(interpreter, sep) {
			return strings.Join([]string{"", name, "M", "", escape(t.magic()), escape(t.mask()), interpreter, flags}, sep), nil
		}
	}
	return "", fmt.Errorf("emulator path %q uses every separator that binfmt_misc knows; move it", interpreter)
}

func escape(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}
