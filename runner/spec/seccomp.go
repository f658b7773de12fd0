package spec

import (
	"encoding/json"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Seccomp gives a built specification its system call filter: containerd's default one, which
// depends on the running kernel and the capabilities, a profile in Docker's JSON, or none.
func Seccomp(s *specs.Spec, h HostConfig) error {
	sec, err := parseSecurity(h.SecurityOpt)
	if err != nil {
		return err
	}
	switch {
	case sec.seccomp == "unconfined", sec.seccomp == "" && h.Privileged:
		return nil
	case sec.seccomp == "", sec.seccomp == "builtin":
		s.Linux.Seccomp = seccomp.DefaultProfile(s)
		return nil
	}
	s.Linux.Seccomp, err = parseProfile([]byte(sec.seccomp), s.Process.Capabilities.Bounding, hostArch())
	return err
}

// profile is Docker's seccomp format: OCI's, with conditions (moby/profiles/seccomp).
type profile struct {
	specs.LinuxSeccomp
	ArchMap []struct {
		Architecture     specs.Arch   `json:"architecture"`
		SubArchitectures []specs.Arch `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []struct {
		specs.LinuxSyscall
		Name     string    `json:"name"`
		Includes condition `json:"includes"`
		Excludes condition `json:"excludes"`
	} `json:"syscalls"` // in place of the embedded one
}

type condition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

func parseProfile(data []byte, caps []string, arch string) (*specs.LinuxSeccomp, error) {
	var p profile
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, invalid("seccomp profile: %v", err)
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, invalid("seccomp profile: use either 'architectures' or 'archMap'")
	}
	out := p.LinuxSeccomp
	out.Syscalls = nil
	for _, m := range p.ArchMap {
		if m.Architecture == ociArch(arch) {
			out.Architectures = append([]specs.Arch{m.Architecture}, m.SubArchitectures...)
		}
	}
	for _, c := range p.Syscalls {
		if c.Excludes.MinKernel != "" {
			continue // minimums in use are 4.8 and older than every kernel with mount_setattr(2)
		}
		if !c.Includes.holds(caps, arch) || c.Excludes.any(caps, arch) {
			continue
		}
		call := c.LinuxSyscall
		if c.Name != "" {
			call.Names = append(call.Names, c.Name)
		}
		out.Syscalls = append(out.Syscalls, call)
	}
	return &out, nil
}

// holds says whether all that the condition names is there. An empty condition holds.
func (c condition) holds(caps []string, arch string) bool {
	for _, k := range c.Caps {
		if !slices.Contains(caps, k) {
			return false
		}
	}
	return len(c.Arches) == 0 || slices.Contains(c.Arches, arch)
}

// any says whether something that the condition names is there.
func (c condition) any(caps []string, arch string) bool {
	return slices.Contains(c.Arches, arch) || slices.ContainsFunc(c.Caps, func(k string) bool { return slices.Contains(caps, k) })
}
