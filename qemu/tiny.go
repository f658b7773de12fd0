package qemu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// tiny is a complete executable of an architecture that only exits with 0: the
// cheapest question to a machine whether it runs the architecture at all. nil
// when the package has no such program.
func tiny(arch string) []byte {
	code := map[string][]byte{
		"386":   {0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80},                               // mov $1,%eax; xor %ebx,%ebx; int $0x80
		"amd64": {0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05},                              // mov $60,%eax; xor %edi,%edi; syscall
		"arm":   {0x01, 0x70, 0xa0, 0xe3, 0x00, 0x00, 0xa0, 0xe3, 0x00, 0x00, 0x00, 0xef}, // mov r7,#1; mov r0,#0; svc #0
		"arm64": {0xa8, 0x0b, 0x80, 0xd2, 0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}, // mov x8,#93; mov x0,#0; svc #0
	}[arch]
	if code == nil {
		return nil
	}
	return program(arch, code)
}

// program makes an executable of an architecture's machine code; nil for an architecture that is unknown.
func program(arch string, code []byte) []byte {
	t, ok := targetFor(arch)
	if !ok {
		return nil
	}
	if t.class == elf.ELFCLASS32 {
		return append(t.head32(len(code)), code...)
	}
	return append(t.head64(len(code)), code...)
}

// tinyBase is where the program is loaded, above every usual vm.mmap_min_addr.
const tinyBase = 0x400000

func (t target) head32(code int) []byte {
	const head, segment = 52, 32
	h := elf.Header32{
		Type: uint16(elf.ET_EXEC), Machine: uint16(t.machine), Version: uint32(elf.EV_CURRENT),
		Entry: tinyBase + head + segment, Phoff: head, Ehsize: head, Phentsize: segment, Phnum: 1,
	}
	copy(h.Ident[:], t.magic())
	if t.machine == elf.EM_ARM {
		h.Flags = 0x05000000 // EABI version 5, without which svc #0 is an old call
	}
	size := uint32(head + segment + code)
	p := elf.Prog32{
		Type: uint32(elf.PT_LOAD), Vaddr: tinyBase, Paddr: tinyBase,
		Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: 0x1000,
	}
	return t.encode(h, p)
}

func (t target) head64(code int) []byte {
	const head, segment = 64, 56
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(t.machine), Version: uint32(elf.EV_CURRENT),
		Entry: tinyBase + head + segment, Phoff: head, Ehsize: head, Phentsize: segment, Phnum: 1,
	}
	copy(h.Ident[:], t.magic())
	size := uint64(head + segment + code)
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: tinyBase, Paddr: tinyBase,
		Filesz: size, Memsz: size, Align: 0x1000,
	}
	return t.encode(h, p)
}

func (t target) encode(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		// Fixed-size structures into memory: there is nothing that could fail.
		_ = binary.Write(&b, t.order(), p)
	}
	return b.Bytes()
}
