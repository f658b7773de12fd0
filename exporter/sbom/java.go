package sbom

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/package-url/packageurl-go"
)

const (
	jarDirectory = 32 * mib  // a zip's table of contents: about half a million names
	jarInflated  = 512 * mib // all that is unpacked out of one outer archive
	jarNested    = 128 * mib // one archive inside another, held in memory
)

// jarName is ARTIFACT-VERSION.jar, the name that Maven gives.
var jarName = regexp.MustCompile(`^(.+?)-(\d[0-9A-Za-z.+_-]*)\.[A-Za-z]+$`)

// jar is an archive and what may still be unpacked of it.
type jar struct {
	f    *file
	left int64
	all  []component
	errs []error
}

// readJava lists the libraries in a Java archive and in the archives directly inside it, by the
// properties that Maven leaves in META-INF, else by file name and manifest.
func readJava(f *file) ([]component, error) {
	j := &jar{f: f, left: jarInflated}
	if err := j.archive(f.at, f.size, path.Base(f.path), true); err != nil {
		j.errs = append(j.errs, err)
	}
	return j.all, errors.Join(j.errs...)
}

func (j *jar) archive(at io.ReaderAt, size int64, name string, outer bool) error {
	z, err := openZip(at, size, j)
	if err != nil {
		return err
	}
	before := len(j.all)
	guess := byName(name)
	for _, e := range z.File {
		var err error
		switch {
		case path.Base(e.Name) == "pom.properties":
			err = j.properties(e)
		case strings.EqualFold(e.Name, "META-INF/MANIFEST.MF"):
			err = j.manifest(e, &guess)
		case isJava(e.Name, nil) && outer:
			err = j.nested(e)
		case isJava(e.Name, nil):
			err = errors.New("not read: an archive in an archive in an archive")
		}
		if err != nil {
			j.errs = append(j.errs, fmt.Errorf("%s: %w", clean(e.Name), err))
		}
		if len(j.errs) > 16 || errors.Is(err, errBudget) {
			return errors.New("the rest of the archive is not read")
		}
	}
	if len(j.all) == before && guess.version != "" {
		j.all = append(j.all, guess)
	}
	return nil
}

// openZip reads a table of contents of bounded size.
func openZip(at io.ReaderAt, size int64, j *jar) (*zip.Reader, error) {
	b := &budget{ctx: j.f.ctx, r: at, left: jarDirectory}
	z, err := zip.NewReader(b, size)
	b.left = 1 << 62 // what is unpacked is counted by itself
	if errors.Is(err, zip.ErrInsecurePath) {
		err = nil // nothing is written under these names
	}
	return z, err
}

// unpack returns one member.
func (j *jar) unpack(e *zip.File, limit int64) ([]byte, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := head(r, min(limit, j.left))
	if err != nil && limit >= j.left {
		return nil, fmt.Errorf("%w: %w", errBudget, err)
	}
	j.left -= int64(len(b))
	return b, err
}

func (j *jar) properties(e *zip.File) error {
	b, err := j.unpack(e, 64*kib)
	if err != nil {
		return err
	}
	p := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			p[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	if p["groupId"] == "" || p["artifactId"] == "" {
		return errors.New("no groupId or artifactId")
	}
	j.all = append(j.all, component{
		kind: packageurl.TypeMaven, namespace: p["groupId"], name: p["artifactId"], version: p["version"],
	})
	return nil
}

// byName reads a library off its file's name. A package URL of Maven needs a group: without one the
// component is a generic one, since a guess would match another project's advisories.
func byName(file string) component {
	c := component{kind: packageurl.TypeGeneric, name: strings.TrimSuffix(file, path.Ext(file))}
	if m := jarName.FindStringSubmatch(file); m != nil {
		c.name, c.version = m[1], m[2]
	}
	return c
}

// manifest adds to c what the main section of a manifest says.
// See https://docs.oracle.com/en/java/javase/21/docs/specs/jar/jar.html.
func (j *jar) manifest(e *zip.File, c *component) error {
	b, err := j.unpack(e, mib)
	if err != nil {
		return err
	}
	want := " implementation-version implementation-vendor implementation-vendor-id bundle-version "
	return stanzas(bytes.NewReader(b), want, func(p stanza) bool {
		for _, v := range []string{p["implementation-version"], p["bundle-version"]} {
			if c.version == "" {
				c.version = v
			}
		}
		if group := p["implementation-vendor-id"]; strings.Contains(group, ".") {
			c.kind, c.namespace = packageurl.TypeMaven, group
		}
		c.supplier = p["implementation-vendor"]
		return false
	})
}

func (j *jar) nested(e *zip.File) error {
	b, err := j.unpack(e, jarNested)
	if err != nil {
		return err
	}
	return j.archive(bytes.NewReader(b), int64(len(b)), path.Base(e.Name), false)
}
