package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// ManifestName is the manifest's file name, next to the programs.
const ManifestName = "manifest.json"

// Manifest says what the programs are. It is written when they are packed, so
// that nobody has to unpack one to know its digest.
type Manifest struct {
	Arch     string    `json:"arch"` // GOARCH of the machines that run the programs
	Programs []Program `json:"programs"`
}

// Program is one carried program, stored as Name + ".zst".
type Program struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the unpacked program, in hexadecimal
	Size    int64  `json:"size"`   // of the unpacked program, in bytes
}

// bundle is a set of packed programs.
type bundle struct {
	files fs.FS
	arch  string // the machine's GOARCH
}

// manifest is empty when nothing was packed.
func (b bundle) manifest() (Manifest, error) {
	var m Manifest
	text, err := fs.ReadFile(b.files, ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("reading the list of carried programs: %w", err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("reading the list of carried programs: %w; build gantry anew with `make build`", err)
	}
	return m, nil
}

// find gives the program's place in the manifest.
func (b bundle) find(name string) (Program, error) {
	m, err := b.manifest()
	if err != nil {
		return Program{}, err
	}
	for _, p := range m.Programs {
		if p.Name != name {
			continue
		}
		if m.Arch != b.arch {
			return Program{}, fmt.Errorf("this gantry for %s carries a %s for %s; build it on %s with `make build`",
				b.arch, name, m.Arch, b.arch)
		}
		if len(p.SHA256) != 64 || strings.ContainsAny(p.Name, "/\x00") {
			return Program{}, fmt.Errorf("the list of carried programs is damaged at %q; build gantry anew with `make build`", name)
		}
		return p, nil
	}
	return Program{}, fmt.Errorf("this gantry was built without %s; build it with `make build`", name)
}
