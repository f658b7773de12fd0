package spec

import (
	"strconv"
	"strings"

	"github.com/gantry-build/gantry/internal/fault"
)

type security struct {
	noNewPrivileges bool
	systemPaths     bool // nothing masked
	writableCgroups *bool
	seccomp         string // "", unconfined, builtin, or a profile in JSON
}

// parseSecurity reads --security-opt, in Docker's spellings "name=value", "name:value" and "name".
func parseSecurity(opts []string) (s security, err error) {
	for _, o := range opts {
		i := strings.IndexAny(o, "=:")
		name, value := o, ""
		if i >= 0 {
			name, value = o[:i], o[i+1:]
		}
		switch {
		case name == "no-new-privileges" && value == "":
			s.noNewPrivileges = true
		case name == "no-new-privileges":
			if s.noNewPrivileges, err = strconv.ParseBool(value); err != nil {
				return s, fault.Invalid("invalid --security-opt 2: %q", o)
			}
		case name == "writable-cgroups":
			on := value == "" || value == "true"
			if s.writableCgroups = &on; value != "" && value != "true" && value != "false" {
				return s, fault.Invalid("invalid --security-opt 2: %q", o)
			}
		case name == "seccomp" && value != "":
			s.seccomp = value
		case name == "systempaths" && value == "unconfined":
			s.systemPaths = true
		case name == "apparmor" && value == "unconfined", name == "label" && value == "disable":
			// Containers have no AppArmor profile and no SELinux label.
		case i < 0:
			return s, fault.Invalid("invalid --security-opt 1: %q", o)
		case name == "apparmor", name == "label":
			return s, fault.Invalid("security option %q is not supported: this machine's containers have no AppArmor profile and no "+
				"SELinux "+
				"label; use apparmor=unconfined or label=disable", o)
		default:
			return s, fault.Invalid("invalid --security-opt 2: %q", o)
		}
	}
	return s, nil
}
