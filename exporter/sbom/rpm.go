package sbom

import (
	"strconv"

	"github.com/package-url/packageurl-go"

	"github.com/gantry-build/gantry/exporter/sbom/rpmdb"
)

// readRpm reads rpm's database in any of its three formats.
func readRpm(f *file) ([]component, error) {
	var all []component
	err := rpmdb.Read(f.at, f.size, func(p rpmdb.Package) bool {
		if p.Name != "gpg-pubkey" { // keys that rpm trusts are kept as packages, but are no software
			all = append(all, redhat(f, p))
		}
		return len(all) < maxComponents
	})
	return all, err
}

func redhat(f *file, p rpmdb.Package) component {
	epoch := ""
	if p.Epoch > 0 {
		epoch = strconv.FormatUint(uint64(p.Epoch), 10)
	}
	version := p.Version
	if p.Release != "" {
		version += "-" + p.Release
	}
	return component{
		kind:      packageurl.TypeRPM,
		namespace: f.distro().id,
		name:      p.Name,
		version:   version,
		qualifiers: map[string]string{
			"arch": p.Arch, "distro": f.distro().qualifier(), "epoch": epoch, "upstream": p.SourceRPM,
		},
		licences: []string{p.License},
		supplier: p.Vendor,
		homepage: p.URL,
	}
}
