package spec

import (
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/internal/fault"
)

// withoutX32 leaves out the rules for a system call interface that kernels no longer offer unless asked at boot (x32 of
// amd64), which are a third of a filter: making it is a seventh of what a start or an exec takes. A program that calls the
// kernel so is killed.
func withoutX32(profile *specs.LinuxSeccomp) {
	if profile != nil {
		profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	}
}

// Seccomp gives a built specification its system call filter: Docker's default one, a profile in Docker's
// JSON, or none. Both depend on the running kernel, on the container's capabilities, and on the machine's
// architecture: the filter sees the host's system calls, also of programs that run under an emulator.
func Seccomp(s *specs.Spec, h HostConfig) error {
	sec, err := parseSecurity(h.SecurityOpt)
	if err != nil {
		return err
	}
	switch {
	case sec.seccomp == "unconfined", sec.seccomp == "" && h.Privileged:
		return nil
	case sec.seccomp == "", sec.seccomp == "builtin":
		if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err == nil {
			withoutX32(s.Linux.Seccomp)
		}
		return err
	}
	if s.Linux.Seccomp, err = seccomp.LoadProfile(sec.seccomp, s); err != nil {
		return fault.Invalid("seccomp profile: %v", err)
	}
	return nil
}
