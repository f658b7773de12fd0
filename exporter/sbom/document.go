package sbom

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const (
	documentID = common.ElementID("DOCUMENT")
	rootID     = common.ElementID("DocumentRoot")
	systemID   = common.ElementID("OperatingSystem")

	namespaceBase = "https://github.com/gantry-build/gantry/spdx/"
)

// evident is the comment of a relationship OTHER: SPDX 2.3 has no word of its own for a file that
// shows that a package is there, and CONTAINS would claim that the package's files were analyzed.
const evident = "evident-by: the package's existence is evident by the given file"

// document writes down what was found.
func (s *scan) document(o Options) *Document {
	l := licences{}
	d := &v2_3.Document{
		SPDXVersion:       v2_3.Version,
		DataLicense:       v2_3.DataLicense,
		SPDXIdentifier:    documentID,
		DocumentName:      clean(o.Name),
		DocumentNamespace: s.namespace(o),
		DocumentComment:   s.comment(),
		CreationInfo:      creation(o),
		Packages:          []*v2_3.Package{rootPackage(o)},
		Relationships:     []*v2_3.Relationship{relation(documentID, "DESCRIBES", rootID)},
	}
	if s.distro.id != "" {
		d.Packages = append(d.Packages, s.distro.spdx())
		d.Relationships = append(d.Relationships, relation(rootID, "CONTAINS", systemID))
	}
	for _, purl := range sortedKeys(s.found) {
		c := s.found[purl]
		p := c.spdx(purl, l)
		d.Packages = append(d.Packages, p)
		d.Relationships = append(d.Relationships, relation(rootID, "CONTAINS", p.PackageSPDXIdentifier))
		for _, path := range sortedKeys(c.evidence) {
			r := relation(p.PackageSPDXIdentifier, "OTHER", fileID(path))
			r.RelationshipComment = evident
			d.Relationships = append(d.Relationships, r)
		}
	}
	for _, path := range sortedKeys(s.files) {
		d.Files = append(d.Files, s.files[path].spdx(path))
	}
	d.OtherLicenses = l.extracted()
	return d
}

// namespace is unique to what was scanned, and the same for the same.
func (s *scan) namespace(o Options) string {
	id := ""
	if o.Digest == "" {
		id = s.fingerprint()
	} else {
		id = o.Digest.Encoded()
	}
	return namespaceBase + url.PathEscape(clean(o.Name)) + "-" + id
}

// fingerprint is a digest over what was found.
func (s *scan) fingerprint() string {
	h := sha256.New()
	for _, purl := range sortedKeys(s.found) {
		fmt.Fprintf(h, "%q %q\n", purl, sortedKeys(s.found[purl].evidence))
	}
	for _, path := range sortedKeys(s.files) {
		fmt.Fprintf(h, "%q %s\n", path, s.files[path].sha256)
	}
	io.WriteString(h, s.distro.qualifier())
	return hex.EncodeToString(h.Sum(nil))
}

// comment says what the list may lack.
func (s *scan) comment() string {
	if len(s.notes) == 0 {
		return ""
	}
	text := "The list may be incomplete.\n" + strings.Join(s.notes, "\n")
	if s.unnoted > 0 {
		text += fmt.Sprintf("\nand %d more", s.unnoted)
	}
	return text
}

func creation(o Options) *v2_3.CreationInfo {
	tool := clean(o.Tool)
	if tool == "" {
		tool = "gantry"
	}
	return &v2_3.CreationInfo{
		Creators: []common.Creator{{CreatorType: "Tool", Creator: tool}},
		Created:  o.Time.UTC().Format(time.RFC3339),
	}
}

func rootPackage(o Options) *v2_3.Package {
	p := bare(rootID, clean(o.Name), "", "CONTAINER")
	if o.Digest != "" && o.Digest.Algorithm() == digest.SHA256 {
		p.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: o.Digest.Encoded()}}
	}
	return p
}

func (d distro) spdx() *v2_3.Package {
	p := bare(systemID, d.id, d.version, "OPERATING-SYSTEM")
	p.PackageDescription = d.name
	return p
}

// bare has what SPDX demands of every package.
func bare(id common.ElementID, name, version, purpose string) *v2_3.Package {
	return &v2_3.Package{
		PackageName:               name,
		PackageSPDXIdentifier:     id,
		PackageVersion:            version,
		PackageDownloadLocation:   noAssertion,
		PackageLicenseConcluded:   noAssertion,
		PackageLicenseDeclared:    noAssertion,
		PackageCopyrightText:      noAssertion,
		IsFilesAnalyzedTagPresent: true,
		PrimaryPackagePurpose:     purpose,
	}
}

var idChars = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// elementID is readable, and unique through the sum of the key.
func elementID(kind, name, key string) common.ElementID {
	name = idChars.ReplaceAllString(name, "-")
	if len(name) > 80 {
		name = name[:80]
	}
	sum := sha256.Sum256([]byte(key))
	return common.ElementID(kind + "-" + name + "-" + hex.EncodeToString(sum[:8]))
}

func fileID(path string) common.ElementID {
	return elementID("File", path, path)
}

func (c *component) spdx(purl string, l licences) *v2_3.Package {
	p := bare(elementID("Package", c.kind+"-"+c.name, purl), c.title(), c.version, "")
	p.PackageLicenseDeclared = l.all(c.licences)
	p.PackageSupplier = c.by()
	if u, err := url.Parse(c.homepage); err == nil && u.Host != "" {
		p.PackageHomePage = u.String()
	}
	p.PackageExternalReferences = []*v2_3.PackageExternalReference{{
		Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
	}}
	return p
}

// by is who the package comes from: "Organization: name", or "Person: name (mail)".
func (c *component) by() *common.Supplier {
	if c.supplier != "" {
		return &common.Supplier{SupplierType: "Organization", Supplier: c.supplier}
	}
	name, mail, ok := strings.Cut(c.maintainer, "<")
	name = strings.TrimSpace(name)
	if mail, _, _ = strings.Cut(mail, ">"); ok && mail != "" {
		name = strings.TrimSpace(name + " (" + strings.TrimSpace(mail) + ")")
	}
	if name == "" {
		return &common.Supplier{Supplier: noAssertion}
	}
	return &common.Supplier{SupplierType: "Person", Supplier: name}
}

func (e evidence) spdx(path string) *v2_3.File {
	return &v2_3.File{
		FileName:           "/" + strings.ToValidUTF8(path, "\uFFFD"),
		FileSPDXIdentifier: fileID(path),
		Checksums: []common.Checksum{
			{Algorithm: common.SHA1, Value: e.sha1}, {Algorithm: common.SHA256, Value: e.sha256},
		},
		LicenseConcluded:   noAssertion,
		LicenseInfoInFiles: []string{noAssertion},
		FileCopyrightText:  noAssertion,
	}
}

func relation(a common.ElementID, kind string, b common.ElementID) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, Relationship: kind, RefB: common.DocElementID{ElementRefID: b},
	}
}
