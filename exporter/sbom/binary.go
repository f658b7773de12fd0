package sbom

import (
	"bytes"
	"compress/zlib"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"io"
	"path"
	"runtime/debug"
	"strings"

	"github.com/package-url/packageurl-go"
)

// readBinary reads what compilers tell about a program's parts.
func readBinary(f *file) ([]component, error) {
	var magic [4]byte
	if _, err := f.at.ReadAt(magic[:], 0); err != nil {
		return nil, nil
	}
	switch {
	case magic[0] == 'M' && magic[1] == 'Z':
		return goModules(f), nil
	case string(magic[:]) != elf.ELFMAG:
		return nil, nil
	}
	e, err := elf.NewFile(f.at)
	if err != nil {
		return nil, nil // not for this reader to judge: kernels load what debug/elf refuses
	}
	var all []component
	if len(e.Sections) == 0 || e.Section(".go.buildinfo") != nil {
		all = goModules(f)
	}
	if s := e.Section(".dep-v0"); s != nil {
		crates, err := rustCrates(s.Open())
		return append(all, crates...), err
	}
	return all, nil
}

// goModules lists the modules of a Go program, and its standard library. See debug/buildinfo.
func goModules(f *file) []component {
	info, err := buildinfo.Read(f.at)
	if err != nil {
		return nil // no Go program, or one older than Go 1.13
	}
	all := []component{goModule("stdlib", strings.TrimPrefix(strings.Fields(info.GoVersion + " ")[0], "go"))}
	if info.Main.Path != "" {
		version := info.Main.Version
		if version == "(devel)" {
			version = ""
		}
		all = append(all, goModule(info.Main.Path, version))
	}
	for _, m := range info.Deps {
		m = replaced(m)
		all = append(all, goModule(m.Path, m.Version))
	}
	return all
}

// replaced is the module that was really built in. One replaced by a directory keeps its name.
func replaced(m *debug.Module) *debug.Module {
	if r := m.Replace; r != nil && r.Version != "" {
		return r
	}
	return m
}

func goModule(module, version string) component {
	dir, name := path.Split(module)
	return component{
		kind: packageurl.TypeGolang, namespace: strings.TrimSuffix(dir, "/"), name: name, version: version,
	}
}

// auditable is what cargo-auditable puts into a program, compressed.
// See https://github.com/rust-secure-code/cargo-auditable/blob/master/PARSING.md.
type auditable struct {
	Packages []struct {
		Name, Version, Source, Kind string
	}
}

func rustCrates(section io.Reader) ([]component, error) {
	z, err := zlib.NewReader(section)
	if err != nil {
		return nil, err
	}
	text, err := head(z, 8*mib)
	if err != nil {
		return nil, err
	}
	var list auditable
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&list); err != nil {
		return nil, err
	}
	var all []component
	for _, p := range list.Packages {
		if p.Kind == "build" {
			continue // ran in the build, is not in the program
		}
		all = append(all, component{kind: packageurl.TypeCargo, name: p.Name, version: p.Version})
	}
	return all, nil
}
