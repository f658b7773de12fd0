package sbom

import (
	"bytes"
	"strings"

	"github.com/package-url/packageurl-go"
)

// readDpkg reads dpkg's status file, and the one-package files of distroless images, which have no
// Status field. See dpkg(1), "package states".
func readDpkg(f *file) ([]component, error) {
	var all []component
	want := " package status version architecture source maintainer homepage "
	err := stanzas(f.stream(), want, func(p stanza) bool {
		if state := strings.Fields(p["status"]); len(state) > 0 && state[len(state)-1] != "installed" {
			return true
		} else if len(state) == 0 && f.path == "var/lib/dpkg/status" {
			return true
		}
		all = append(all, debian(f, p))
		return len(all) < maxComponents
	})
	return all, err
}

func debian(f *file, p stanza) component {
	// "glibc (2.36-9)": the version is there only if it differs from the package's own.
	source, sourceVersion, _ := strings.Cut(p["source"], " (")
	if sourceVersion = strings.TrimSuffix(sourceVersion, ")"); sourceVersion != "" {
		source += "@" + sourceVersion
	}
	if source == p["package"] {
		source = ""
	}
	return component{
		kind:      packageurl.TypeDebian,
		namespace: f.distro().or("debian"),
		name:      p["package"],
		version:   p["version"],
		qualifiers: map[string]string{
			"arch": p["architecture"], "distro": f.distro().qualifier(), "upstream": source,
		},
		licences:   debianLicences(f, p["package"]),
		maintainer: p["maintainer"],
		homepage:   p["homepage"],
	}
}

// debianLicences are the short names in a machine-readable copyright file; none if it is not.
// See https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/.
func debianLicences(f *file, pkg string) []string {
	if pkg == "" || strings.ContainsAny(pkg, "/\x00") {
		return nil
	}
	text := f.small("usr/share/doc/"+pkg+"/copyright", mib)
	if !bytes.Contains(text, []byte("copyright-format/1.")) {
		return nil
	}
	names := map[string]bool{}
	err := stanzas(bytes.NewReader(text), " license ", func(p stanza) bool {
		first, _, _ := strings.Cut(p["license"], "\n")
		if first = clean(first); first != "" {
			names[first] = true
		}
		return len(names) < 64
	})
	if err != nil {
		return nil
	}
	return sortedKeys(names)
}
