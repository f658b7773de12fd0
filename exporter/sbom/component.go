package sbom

import (
	"strings"
	"unicode"

	"github.com/package-url/packageurl-go"
)

// component is a piece of software.
type component struct {
	kind       string // a type of package URL
	namespace  string
	name       string
	version    string
	shown      string // the name as its authors spell it, if purl folds it
	qualifiers map[string]string
	licences   []string // as the package words them; all hold
	supplier   string
	maintainer string // "name <mail>"
	homepage   string
	evidence   map[string]bool
}

// purl names the component. See https://github.com/package-url/purl-spec.
func (c *component) purl() string {
	q := packageurl.Qualifiers{}
	for _, k := range sortedKeys(c.qualifiers) {
		if v := c.qualifiers[k]; v != "" {
			q = append(q, packageurl.Qualifier{Key: k, Value: v})
		}
	}
	p := packageurl.NewPackageURL(c.kind, c.namespace, c.name, c.version, q, "")
	_ = p.Normalize() // what its type's rules refuse is still the package's name
	return p.ToString()
}

// title is the name that people know the component by.
func (c *component) title() string {
	switch {
	case c.shown != "":
		return c.shown
	case c.namespace == "":
		return c.name
	case c.kind == packageurl.TypeMaven:
		return c.namespace + ":" + c.name
	case c.kind == packageurl.TypeGolang, c.kind == packageurl.TypeNPM:
		return c.namespace + "/" + c.name
	}
	return c.name // the namespace of a distribution's package is the distribution
}

// fill takes over what c does not know yet: one component may have several evidences.
func (c *component) fill(from component) {
	for _, p := range [][2]*string{
		{&c.supplier, &from.supplier}, {&c.maintainer, &from.maintainer}, {&c.homepage, &from.homepage},
	} {
		if *p[0] == "" {
			*p[0] = *p[1]
		}
	}
	if len(c.licences) == 0 {
		c.licences = from.licences
	}
}

// tidy makes every text fit for a document that people and terminals read.
func (c *component) tidy() {
	for _, p := range []*string{&c.namespace, &c.name, &c.version, &c.shown, &c.supplier, &c.maintainer, &c.homepage} {
		*p = clean(*p)
	}
	for i, l := range c.licences {
		c.licences[i] = clean(l)
	}
	for k, v := range c.qualifiers {
		c.qualifiers[k] = clean(v)
	}
}

// clean returns s as one line of valid UTF-8 of at most 512 bytes, without control characters.
func clean(s string) string {
	const limit = 512
	if len(s) > limit {
		s = s[:limit]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
