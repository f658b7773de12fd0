package sbom

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/package-url/packageurl-go"
)

// gemFile is NAME-VERSION[-PLATFORM].gemspec: RubyGems writes it, and a version begins with a digit.
var gemFile = regexp.MustCompile(`^(.+?)-(\d[0-9A-Za-z.]*)(?:-([A-Za-z0-9_.-]+))?\.gemspec$`)

// A gemspec is a program. These are the two lines of it that RubyGems always writes alike.
var (
	gemLicences = regexp.MustCompile(`(?m)^\s*s\.licenses? = \[?("[^\]\n]*")`)
	gemHomepage = regexp.MustCompile(`(?m)^\s*s\.homepage = "([^"\n]*)"`)
)

// readGem reads an installed gem's name, version and platform off the name of its specification.
func readGem(f *file) ([]component, error) {
	m := gemFile.FindStringSubmatch(path.Base(f.path))
	if m == nil {
		return nil, fmt.Errorf("its name is not NAME-VERSION.gemspec")
	}
	c := component{kind: packageurl.TypeGem, name: m[1], version: m[2]}
	if m[3] != "" {
		c.qualifiers = map[string]string{"platform": m[3]}
	}
	text, err := f.bytes()
	if l := gemLicences.FindSubmatch(text); l != nil {
		names := strings.ReplaceAll(strings.ReplaceAll(string(l[1]), ".freeze", ""), `"`, "")
		c.licences = []string{strings.Join(strings.FieldsFunc(names, func(r rune) bool { return r == ',' }), " OR ")}
	}
	if h := gemHomepage.FindSubmatch(text); h != nil {
		c.homepage = string(h[1])
	}
	return []component{c}, err
}
