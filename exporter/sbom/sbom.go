// Package sbom lists the software inside a root file system as an SPDX 2.3 document, in process:
// no scanner image is pulled and nothing of the scanned image is run.
//
// It reads the databases that package managers leave behind (dpkg, apk, rpm), the metadata of
// installed libraries (Python, npm, Java archives, Ruby gems) and what Go and Rust compilers write
// into their binaries. What it reads is hostile by assumption: files are opened through an os.Root,
// symbolic links are never walked, devices and pipes are never opened, every reader has a budget of
// bytes, and every parser is bounds-checked Go (that is why the rpm formats are read here rather
// than with a translated SQLite). What was left out for such a reason is named in the document's
// comment, never passed over in silence.
//
// The document depends on the root and the Options alone: equal input gives equal bytes.
//
// Words: a component is a piece of software; its evidence is the file that gave it away.
package sbom

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// PredicateType is the in-toto predicate type of the documents.
// See https://github.com/in-toto/attestation/blob/main/spec/predicates/spdx.md.
const PredicateType = "https://spdx.dev/Document"

// Document is an SPDX 2.3 document; json.Marshal writes it as the specification wants it.
// See https://spdx.github.io/spdx-spec/v2.3/.
type Document = v2_3.Document

// Options say what the document claims about itself.
type Options struct {
	// Name is what was scanned: an image reference, or a stage of a build. Required.
	Name string
	// Time is the document's time of creation, kept to the second. Required: the clock would make
	// two scans of one root differ.
	Time time.Time
	// Digest is the digest of what was scanned. It makes the document's namespace unique; when it
	// is empty, a digest over the findings takes its place.
	Digest digest.Digest
	// Tool is the name and version of the creator, such as "gantry-1.0.0". Empty means "gantry".
	Tool string
}

func (o Options) validate() error {
	if o.Name == "" {
		return errors.New("sbom: no name for the document: set Options.Name")
	}
	if o.Time.IsZero() {
		return errors.New("sbom: no time of creation: set Options.Time")
	}
	if o.Digest != "" {
		if err := o.Digest.Validate(); err != nil {
			return fmt.Errorf("sbom: digest %q: %w", o.Digest, err)
		}
	}
	return nil
}

// Scan lists the software below the directory root. A file that can't be read or parsed is named in
// the document's comment and does not fail the scan; a root that can't be walked, or a context that
// ends, does. It may be called by several goroutines at once.
func Scan(ctx context.Context, root string, o Options) (*Document, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("sbom: opening the root of %s: %w", o.Name, err)
	}
	defer r.Close()
	s := newScan(ctx, r)
	if err := s.walk(r, "", 0); err != nil {
		return nil, fmt.Errorf("sbom: scanning %s: %w", o.Name, err)
	}
	return s.document(o), nil
}
