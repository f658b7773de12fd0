package sbom

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzReaders feeds any bytes to any reader, and what it names to the document.
func FuzzReaders(f *testing.F) {
	for i, r := range readers {
		f.Add(uint8(i), []byte(r.what+": x\n"))
	}
	f.Add(uint8(0), []byte(oneStanza))
	f.Add(uint8(1), []byte("P:musl\nV:1\nL:MIT OR (x AND y)\n"))
	f.Add(uint8(2), bdbOf(512))
	f.Add(uint8(4), []byte("Name: a\nVersion: 1\nLicense: MIT\n"))
	f.Add(uint8(5), []byte(`{"name":"@a/b","version":"1","license":{"type":"MIT"},"licenses":[{"type":"x"}],"author":{}}`))
	f.Add(uint8(7), zipped(f, "pom.properties", "groupId=g\nartifactId=a\n", "META-INF/MANIFEST.MF", "Bundle-Version: 1\n", "a.jar", "PK"))
	f.Add(uint8(8), rustProgram(f, `{"packages":[{"name":"a","version":"1"}]}`))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		r := readers[int(which)%len(readers)]
		ctx := context.Background()
		in := &file{ctx: ctx, path: "a/x-1.gemspec", size: int64(len(data)),
			at: &budget{ctx: ctx, r: bytes.NewReader(data), left: r.budget()}}
		got, err := r.read(in) // a panic is a find here, though Scan survives it
		_ = err
		s := &scan{ctx: ctx, found: map[string]*component{}, files: map[string]evidence{"a": {}}}
		for _, c := range got {
			s.add(c, "a")
		}
		b, err := json.Marshal(s.document(options()))
		if err != nil {
			t.Fatal(err)
		}
		valid(t, b)
	})
}

// FuzzExpression holds licence expressions to SPDX's grammar as far as brackets go, whatever
// packages write, and to references that have a text.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{"MIT", "(MIT OR Apache-2.0) AND x", "GPL-2.0-or-later WITH Classpath-exception-2.0",
		"GPLv2+ and BSD", "a(b", "LicenseRef-x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, words string) {
		l := licences{}
		got := l.expression(clean(words))
		if got == "" || strings.Count(got, "(") != strings.Count(got, ")") {
			t.Fatalf("%q gives %q", words, got)
		}
		if again := (licences{}).expression(got); len(l) == 0 && again != got {
			t.Fatalf("%q is not kept: %q", got, again)
		}
	})
}

func TestExpression(t *testing.T) {
	for words, want := range map[string]string{
		"":                    noAssertion,
		"mit":                 "MIT",
		"(MIT or Apache-2.0)": "(MIT OR Apache-2.0)",
		"GPL-2.0-only with Classpath-exception-2.0": "GPL-2.0-only WITH Classpath-exception-2.0",
		"MIT License":         "MIT",
		"GPL-2+ or Artistic":  "GPL-2.0-or-later OR Artistic-1.0-Perl",
		"GPL v2, see COPYING": licenceRef("GPL v2, see COPYING"),
		"MIT AND":             licenceRef("MIT AND"),
		"MIT AND vendor":      "MIT AND " + licenceRef("vendor"),
		"MIT WITH vendor":     licenceRef("MIT WITH vendor"),
	} {
		if got := (licences{}).expression(words); got != want {
			t.Errorf("%q gives %q, wanted %q", words, got, want)
		}
	}
}
