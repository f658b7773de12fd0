package spec

import (
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hostArch is the machine's architecture: the filter sees the host's system calls, also of programs
// that run under an emulator.
func hostArch() string { return runtime.GOARCH }

// ociArch is the seccomp name of a Go architecture, empty when there is none.
func ociArch(goarch string) specs.Arch {
	switch goarch {
	case "amd64":
		return specs.ArchX86_64
	case "386":
		return specs.ArchX86
	case "arm64":
		return specs.ArchAARCH64
	case "arm":
		return specs.ArchARM
	case "riscv64":
		return specs.ArchRISCV64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "s390x":
		return specs.ArchS390X
	case "loong64":
		return specs.ArchLOONGARCH64
	}
	return ""
}
