package sbom

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/gantry-build/gantry/internal/need"
)

var update = flag.Bool("update", false, "write the golden documents anew")

func options() Options {
	return Options{
		Name:   "example.org/app:1",
		Time:   time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600)),
		Digest: digest.FromString("app"),
		Tool:   "gantry-test",
	}
}

// scanned scans root twice: one document must be the other.
func scanned(t testing.TB, root string) (*Document, []byte) {
	t.Helper()
	var first []byte
	for {
		doc, err := Scan(context.Background(), root, options())
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.MarshalIndent(doc, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if first != nil {
			if !bytes.Equal(first, b) {
				t.Fatal("two scans of one root differ")
			}
			valid(t, b)
			return doc, b
		}
		first = b
	}
}

// valid holds a document against the specification: the reader of the SPDX project takes it, all
// identifiers are unique, all references have a target, and package URLs are canonical.
func valid(t testing.TB, b []byte) {
	t.Helper()
	doc, err := spdxjson.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("SPDX's own reader refuses the document: %v", err)
	}
	ids := map[string]bool{"DOCUMENT": true}
	add := func(id string) {
		if ids[id] || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			t.Errorf("identifier %q is there twice, or has other characters than SPDX allows", id)
		}
		ids[id] = true
	}
	for _, p := range doc.Packages {
		add(string(p.PackageSPDXIdentifier))
		for _, r := range p.PackageExternalReferences {
			if u, err := packageurl.FromString(r.Locator); err != nil || u.ToString() != r.Locator {
				t.Errorf("package URL %q: %v", r.Locator, err)
			}
		}
	}
	for _, f := range doc.Files {
		add(string(f.FileSPDXIdentifier))
	}
	for _, r := range doc.Relationships {
		if !ids[string(r.RefA.ElementRefID)] || !ids[string(r.RefB.ElementRefID)] {
			t.Errorf("relationship %s %s %s has no target", r.RefA.ElementRefID, r.Relationship, r.RefB.ElementRefID)
		}
	}
	extracted := map[string]bool{}
	for _, l := range doc.OtherLicenses {
		extracted[l.LicenseIdentifier] = true
	}
	for _, p := range doc.Packages {
		for word := range strings.FieldsSeq(strings.NewReplacer("(", " ", ")", " ").Replace(p.PackageLicenseDeclared)) {
			if strings.HasPrefix(word, "LicenseRef-") && !extracted[word] {
				t.Errorf("licence %s of %s has no text", word, p.PackageName)
			}
		}
	}
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"alpine", "distroless"} {
		t.Run(name, func(t *testing.T) {
			_, got := scanned(t, filepath.Join("testdata", name, "root"))
			golden := filepath.Join("testdata", name, "sbom.json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs; accept with: go test ./exporter/sbom -run Golden -update\n%s", golden, firstDifference(want, got))
			}
		})
	}
}

func firstDifference(want, got []byte) string {
	w, g := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "- " + w[i] + "\n+ " + g[i]
		}
	}
	return "one is longer"
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{}, {Name: "a"}, {Time: time.Unix(1, 0)}, {Name: "a", Time: time.Unix(1, 0), Digest: "sha256:12"},
	} {
		if _, err := Scan(context.Background(), t.TempDir(), o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	o := options()
	o.Digest = ""
	a, err := Scan(context.Background(), "testdata/alpine/root", o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Scan(context.Background(), "testdata/distroless/root", o)
	if err != nil {
		t.Fatal(err)
	}
	if a.DocumentNamespace == b.DocumentNamespace {
		t.Error("two documents share a namespace")
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("client is gone")
	cancel(gone)
	if _, err := Scan(ctx, "testdata/alpine/root", options()); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if _, err := Scan(context.Background(), filepath.Join(t.TempDir(), "none"), options()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// debianRoot unpacks the base image that make fetches.
func debianRoot(t testing.TB) string {
	t.Helper()
	f, err := os.Open("../../.cache/base/bookworm-slim-amd64.tar")
	if err != nil {
		need.Miss(t, "no base image to scan: "+err.Error())
	}
	defer f.Close()
	root := t.TempDir()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return root
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(root, filepath.FromSlash(h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(to, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		case tar.TypeLink:
			err = os.Link(filepath.Join(root, filepath.FromSlash(h.Linkname)), to)
		case tar.TypeReg:
			var b []byte
			if b, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(to, b, h.FileInfo().Mode().Perm())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDebian(t *testing.T) {
	root := debianRoot(t)
	status, err := os.ReadFile(filepath.Join(root, "var/lib/dpkg/status"))
	if err != nil {
		t.Fatal(err)
	}
	doc, b := scanned(t, root)
	want := strings.Count(string(status), "\nStatus: install ok installed\n")
	if got := strings.Count(string(b), `"pkg:deb/debian/`); got != want || want == 0 {
		t.Errorf("%d packages, but dpkg has %d installed", got, want)
	}
	if !strings.Contains(string(b), `arch=amd64&distro=debian-12&upstream=glibc`) &&
		!strings.Contains(string(b), `arch=amd64\u0026distro=debian-12\u0026upstream=glibc`) {
		t.Error("libc6 is not said to come from glibc of debian-12")
	}
	if doc.DocumentComment != "" {
		t.Errorf("notes about a clean image: %s", doc.DocumentComment)
	}
}

func BenchmarkDebian(b *testing.B) {
	root := debianRoot(b)
	for b.Loop() {
		if _, err := Scan(context.Background(), root, options()); err != nil {
			b.Fatal(err)
		}
	}
}
