package sbom

import (
	"strings"

	"github.com/package-url/packageurl-go"
)

// readApk reads the database of Alpine's package manager: paragraphs of one-letter fields.
// See https://wiki.alpinelinux.org/wiki/Apk_spec. Field names differ in case only, which is why
// this is not the reader of Debian's paragraphs.
func readApk(f *file) ([]component, error) {
	var all []component
	cur := map[byte]string{}
	flush := func() {
		if cur['P'] != "" && len(all) < maxComponents {
			all = append(all, alpine(f, cur))
		}
		clear(cur)
	}
	err := lines(f.stream(), func(line string) {
		switch {
		case line == "":
			flush()
		case len(line) > 1 && line[1] == ':' && strings.IndexByte("PVAoLmU", line[0]) >= 0:
			cur[line[0]] = strings.Clone(line[2:])
		}
	})
	flush()
	return all, err
}

func alpine(f *file, p map[byte]string) component {
	origin := p['o']
	if origin == p['P'] {
		origin = ""
	}
	return component{
		kind:      packageurl.TypeApk,
		namespace: f.distro().or("alpine"),
		name:      p['P'],
		version:   p['V'],
		qualifiers: map[string]string{
			"arch": p['A'], "distro": f.distro().qualifier(), "upstream": origin,
		},
		licences:   []string{p['L']},
		maintainer: p['m'],
		homepage:   p['U'],
	}
}
