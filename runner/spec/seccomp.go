package spec

import (
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gantry-build/gantry/internal/fault"
)

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
		s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
		return err
	}
	if s.Linux.Seccomp, err = seccomp.LoadProfile(sec.seccomp, s); err != nil {
		return fault.Invalid("seccomp profile: %v", err)
	}
	return nil
}
