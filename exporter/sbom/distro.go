package sbom

import (
	"strings"
)

// distro is what os-release(5) says.
type distro struct{ id, version, name string }

// readDistro reads the root's os-release; the second place is the fall-back that the manual names.
func (s *scan) readDistro() distro {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		if b := s.small(name, 64*kib); b != nil {
			return parseOSRelease(string(b))
		}
	}
	return distro{}
}

func parseOSRelease(text string) distro {
	var d distro
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = clean(strings.Trim(value, `"'`))
		switch key {
		case "ID":
			d.id = strings.ToLower(value)
		case "VERSION_ID":
			d.version = value
		case "PRETTY_NAME":
			d.name = value
		}
	}
	return d
}

// qualifier is the distribution in a package URL, such as debian-12.
func (d distro) qualifier() string {
	if d.id == "" || d.version == "" {
		return d.id
	}
	return d.id + "-" + d.version
}

// or is the distribution's id, or the one that a package format implies.
func (d distro) or(id string) string {
	if d.id != "" {
		return d.id
	}
	return id
}
