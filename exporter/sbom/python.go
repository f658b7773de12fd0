package sbom

import (
	"regexp"
	"strings"

	"github.com/package-url/packageurl-go"
)

var pypiRuns = regexp.MustCompile(`[-_.]+`)

// readPython reads the metadata that pip and its kin install next to a library.
// See https://packaging.python.org/en/latest/specifications/core-metadata/.
func readPython(f *file) ([]component, error) {
	var all []component
	want := " name version license license-expression author author-email home-page "
	err := stanzas(f.stream(), want, func(p stanza) bool {
		if p["name"] == "" {
			return false
		}
		licence := p["license-expression"]
		if licence == "" {
			licence, _, _ = strings.Cut(p["license"], "\n") // some put the whole text there
		}
		if licence == "UNKNOWN" {
			licence = ""
		}
		all = append(all, component{
			kind:       packageurl.TypePyPi,
			name:       strings.ToLower(pypiRuns.ReplaceAllString(p["name"], "-")),
			shown:      p["name"],
			version:    p["version"],
			licences:   []string{licence},
			maintainer: author(p["author"], p["author-email"]),
			homepage:   p["home-page"],
		})
		return false // what follows the first paragraph is the description
	})
	return all, err
}

// author joins a name and an address, either of which may be missing or already hold both.
func author(name, mail string) string {
	switch {
	case strings.Contains(mail, "<"), name == "" || name == "UNKNOWN":
		return mail
	case mail == "" || mail == "UNKNOWN":
		return name
	}
	return name + " <" + mail + ">"
}
