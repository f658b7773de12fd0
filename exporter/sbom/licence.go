package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp/spdxlicenses"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const noAssertion = "NOASSERTION"

// alsoKnown are other names of licences, in lower case: Debian's, and what Python and Java write.
var alsoKnown = map[string]string{
	"expat": "MIT", "mit license": "MIT", "the mit license": "MIT",
	"apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
	"apache software license": "Apache-2.0", "apache-2": "Apache-2.0", "isc license": "ISC",
	"artistic": "Artistic-1.0-Perl",
	"mpl-2":    "MPL-2.0", "mpl 2.0": "MPL-2.0", "psf": "PSF-2.0", "cc0": "CC0-1.0",
	"gpl-1+": "GPL-1.0-or-later", "gpl-2": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later", "gpl-3": "GPL-3.0-only",
	"gpl-3+": "GPL-3.0-or-later", "lgpl-2": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later",
	"lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later", "lgpl-3": "LGPL-3.0-only",
	"lgpl-3+": "LGPL-3.0-or-later", "agpl-3": "AGPL-3.0-only", "agpl-3+": "AGPL-3.0-or-later",
	"gfdl-1.3": "GFDL-1.3-only", "gfdl-1.3+": "GFDL-1.3-or-later", "gfdl-1.2+": "GFDL-1.2-or-later",
}

// spdxID is a word as https://spdx.org/licenses/ spells it, among the licences or the exceptions.
// Identifiers are compared without case: SPDX 2.3, annex D.2.
func spdxID(word string, exception bool) (string, bool) {
	if exception {
		ok, id := spdxlicenses.IsException(word)
		return id, ok
	}
	if ok, id := spdxlicenses.IsActiveLicense(word); ok {
		return id, true
	}
	ok, id := spdxlicenses.IsDeprecatedLicense(word)
	return id, ok
}

// licences turns the words of packages into SPDX expressions, and keeps what is not one of SPDX's
// licences as an extracted licence, as SPDX 2.3, clause 10, asks for.
type licences map[string]string // LicenseRef to the words

var (
	licenceWord = regexp.MustCompile(`[()]|[^\s()]+`)
	refChars    = regexp.MustCompile(`[^A-Za-z0-9.]+`)
)

// all joins several statements, all of which hold.
func (l licences) all(statements []string) string {
	var parts []string
	for _, words := range statements {
		e := l.expression(words)
		if strings.Contains(e, " OR ") && len(statements) > 1 {
			e = "(" + e + ")"
		}
		if e != noAssertion && !slices.Contains(parts, e) {
			parts = append(parts, e)
		}
	}
	if len(parts) == 0 {
		return noAssertion
	}
	return strings.Join(parts, " AND ")
}

func (l licences) expression(words string) string {
	if words == "" || words == "NONE" || words == noAssertion {
		return noAssertion
	}
	if id, ok := alsoKnown[strings.ToLower(words)]; ok {
		return id
	}
	tokens := licenceWord.FindAllString(words, -1)
	out, ok := l.grammar(tokens)
	if !ok {
		return l.ref(words)
	}
	return out
}

// grammar checks "id (AND|OR|WITH) id" with brackets. Unknown identifiers become LicenseRefs,
// unless the whole is one of them, or operators are missing.
func (l licences) grammar(tokens []string) (string, bool) {
	var b strings.Builder
	depth, operand := 0, true // operand: one is due
	for i, t := range tokens {
		switch op := strings.ToUpper(t); {
		case t == "(" && operand:
			depth++
		case t == ")" && !operand && depth > 0:
			depth--
		case (op == "AND" || op == "OR" || op == "WITH") && !operand:
			t, operand = " "+op+" ", true
		case !strings.ContainsAny(t, "(),;/") && operand:
			t, operand = l.id(t, i > 0 && strings.EqualFold(tokens[i-1], "WITH")), false
		default:
			return "", false
		}
		if t == "" {
			return "", false
		}
		b.WriteString(t)
	}
	return b.String(), depth == 0 && !operand
}

// id returns an SPDX identifier or a reference for t; "" if it can't stand in an expression.
func (l licences) id(t string, exception bool) string {
	if id, ok := spdxID(t, exception); ok {
		return id
	}
	if exception {
		return "" // neither a licence nor a LicenseRef may follow WITH
	}
	if id, ok := alsoKnown[strings.ToLower(t)]; ok {
		return id
	}
	if id, ok := spdxID(strings.TrimSuffix(t, "+"), false); ok && strings.HasSuffix(t, "+") {
		return id + "+"
	}
	t = strings.TrimPrefix(t, "LicenseRef-")
	return l.ref(t)
}

// ref keeps words under a LicenseRef and returns that.
func (l licences) ref(words string) string {
	id := licenceRef(words)
	l[id] = words
	return id
}

// licenceRef names words: readable, and never the same for two different texts.
func licenceRef(words string) string {
	name := strings.Trim(refChars.ReplaceAllString(words, "-"), "-")
	if len(name) > 48 {
		name = strings.Trim(name[:48], "-")
	}
	sum := sha256.Sum256([]byte(words))
	return "LicenseRef-" + name + "-" + hex.EncodeToString(sum[:4])
}

func (l licences) extracted() []*v2_3.OtherLicense {
	var all []*v2_3.OtherLicense
	for _, id := range sortedKeys(l) {
		all = append(all, &v2_3.OtherLicense{LicenseIdentifier: id, ExtractedText: l[id], LicenseName: l[id]})
	}
	return all
}
