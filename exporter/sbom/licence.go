package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const noAssertion = "NOASSERTION"

// spdxIDs are the licences of https://spdx.org/licenses/ that packages mostly name. An identifier
// that is missing here is not wrong, it is kept in the package's own words as a LicenseRef.
var spdxIDs = idSet(`0BSD AFL-2.0 AFL-2.1 AFL-3.0 AGPL-1.0-only AGPL-1.0-or-later AGPL-3.0-only AGPL-3.0-or-later
	Apache-1.0 Apache-1.1 Apache-2.0 APSL-2.0 Artistic-1.0 Artistic-1.0-Perl Artistic-2.0 BSD-1-Clause BSD-2-Clause
	BSD-2-Clause-Patent BSD-3-Clause BSD-3-Clause-Clear BSD-4-Clause BSD-4-Clause-UC BSL-1.0 bzip2-1.0.6 BlueOak-1.0.0
	CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 CDDL-1.0 CDDL-1.1 CPL-1.0 curl ECL-2.0 EFL-2.0
	EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 FSFAP FSFUL FSFULLR FSFULLRWD FTL GFDL-1.1-only GFDL-1.1-or-later GFDL-1.2-only
	GFDL-1.2-or-later GFDL-1.3-only GFDL-1.3-or-later GFDL-1.3-no-invariants-or-later GPL-1.0-only GPL-1.0-or-later
	GPL-2.0 GPL-2.0-only GPL-2.0-or-later GPL-3.0 GPL-3.0-only GPL-3.0-or-later HPND HPND-sell-variant ICU IJG ImageMagick
	ISC JSON LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1 LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0 LGPL-3.0-only
	LGPL-3.0-or-later libpng-2.0 Libpng libtiff MirOS MIT MIT-0 MIT-CMU MIT-Modern-Variant MPL-1.0 MPL-1.1 MPL-2.0
	MS-PL MS-RL NAIST-2003 NCSA NTP OFL-1.1 OLDAP-2.8 OpenSSL OSL-3.0 PHP-3.0 PHP-3.01 PostgreSQL PSF-2.0 Python-2.0
	Python-2.0.1 RSA-MD Ruby Sendmail SGI-B-2.0 SISSL Sleepycat SMLNJ SSH-OpenSSH TCL TCP-wrappers Unicode-3.0
	Unicode-DFS-2015 Unicode-DFS-2016 Unicode-TOU Unlicense UPL-1.0 Vim W3C W3C-19980720 WTFPL X11 XFree86-1.1 Xnet
	Zlib ZPL-2.0 ZPL-2.1 zlib-acknowledgement Autoconf-exception-2.0 Autoconf-exception-3.0 Bison-exception-2.2
	Classpath-exception-2.0 GCC-exception-2.0 GCC-exception-3.1 Libtool-exception LLVM-exception
	Linux-syscall-note OpenSSL-exception`)

// alsoKnown are other names of licences, in lower case: Debian's, and what Python and Java write.
var alsoKnown = map[string]string{
	"expat": "MIT", "mit license": "MIT", "the mit license": "MIT", "bsd-2-clause": "BSD-2-Clause",
	"apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
	"apache software license": "Apache-2.0", "apache-2": "Apache-2.0", "isc license": "ISC", "zlib": "Zlib",
	"bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "artistic": "Artistic-1.0-Perl",
	"mpl-2": "MPL-2.0", "mpl 2.0": "MPL-2.0", "psf": "PSF-2.0", "unlicense": "Unlicense", "cc0": "CC0-1.0",
	"gpl-1+": "GPL-1.0-or-later", "gpl-2": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later", "gpl-3": "GPL-3.0-only",
	"gpl-3+": "GPL-3.0-or-later", "lgpl-2": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later",
	"lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later", "lgpl-3": "LGPL-3.0-only",
	"lgpl-3+": "LGPL-3.0-or-later", "agpl-3": "AGPL-3.0-only", "agpl-3+": "AGPL-3.0-or-later",
	"gfdl-1.3": "GFDL-1.3-only", "gfdl-1.3+": "GFDL-1.3-or-later", "gfdl-1.2+": "GFDL-1.2-or-later",
}

func idSet(ids string) map[string]string {
	set := map[string]string{}
	for id := range strings.FieldsSeq(ids) {
		set[strings.ToLower(id)] = id // identifiers are compared without case: SPDX 2.3, annex D.2
	}
	return set
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
	if id, ok := spdxIDs[strings.ToLower(t)]; ok {
		return id
	}
	if id, ok := alsoKnown[strings.ToLower(t)]; ok {
		return id
	}
	if id, ok := spdxIDs[strings.ToLower(strings.TrimSuffix(t, "+"))]; ok && strings.HasSuffix(t, "+") {
		return id + "+"
	}
	if exception {
		return "" // a LicenseRef may not follow WITH
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
