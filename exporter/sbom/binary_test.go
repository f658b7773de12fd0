package sbom

import (
	"archive/zip"
	"bytes"
	"compress/zlib"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// put writes a file below root.
func put(t testing.TB, root, name string, b []byte, mode os.FileMode) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, mode); err != nil {
		t.Fatal(err)
	}
}

// purls lists what doc names.
func purls(doc *Document) []string {
	var all []string
	for _, p := range doc.Packages {
		for _, r := range p.PackageExternalReferences {
			all = append(all, r.Locator)
		}
	}
	return all
}

func want(t *testing.T, doc *Document, all ...string) {
	t.Helper()
	if got := purls(doc); !slices.Equal(got, all) {
		t.Errorf("got\n\t%s\nwanted\n\t%s", strings.Join(got, "\n\t"), strings.Join(all, "\n\t"))
	}
}

func TestGoBinary(t *testing.T) {
	root := t.TempDir()
	app := filepath.Join(root, "app")
	goBuild(t, app)
	b, err := os.ReadFile(app)
	if err != nil {
		t.Fatal(err)
	}
	put(t, root, "notes.txt", b, 0o644) // no program: its mode says so
	info, err := buildinfo.ReadFile(app)
	if err != nil || len(info.Deps) == 0 {
		t.Fatalf("the program has no modules to find: %v", err)
	}
	doc, _ := scanned(t, root)
	all := []string{"pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		all = append(all, "pkg:golang/"+m.Path+"@"+m.Version)
	}
	slices.Sort(all)
	want(t, doc, all...)
	if len(doc.Files) != 1 || doc.Files[0].FileName != "/app" {
		t.Errorf("evidence: %v", doc.Files)
	}
}

// goBuild makes a program that uses two modules.
func goBuild(t testing.TB, app string) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		need.Miss(t, "no program to scan without the go tool: "+err.Error())
	}
	src := filepath.Join(t.TempDir(), "main.go")
	text := `package main

import (
	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
)

func main() { println(digest.FromString(packageurl.TypeGolang)) }
`
	if err := os.WriteFile(src, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", app, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestReplaced(t *testing.T) {
	for want, m := range map[string]*debug.Module{
		"a@v1": {Path: "a", Version: "v1"},
		"b@v2": {Path: "a", Version: "v1", Replace: &debug.Module{Path: "b", Version: "v2"}},
		"a@v3": {Path: "a", Version: "v3", Replace: &debug.Module{Path: "../fork"}},
	} {
		if got := replaced(m); got.Path+"@"+got.Version != want {
			t.Errorf("got %s@%s, wanted %s", got.Path, got.Version, want)
		}
	}
}

// rustProgram is an ELF file of nothing but the section that cargo-auditable writes.
func rustProgram(t testing.TB, list string) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	z.Write([]byte(list))
	z.Close()
	names := "\x00.dep-v0\x00.shstrtab\x00"
	dep := uint64(64)
	str := dep + uint64(packed.Len())
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: str + uint64(len(names)),
		Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	binary.Write(&out, binary.LittleEndian, h)
	out.Write(packed.Bytes())
	out.WriteString(names)
	binary.Write(&out, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: dep, Size: str - dep},
		{Name: 9, Type: uint32(elf.SHT_STRTAB), Off: str, Size: uint64(len(names))},
	})
	return out.Bytes()
}

func TestRustBinary(t *testing.T) {
	root := t.TempDir()
	put(t, root, "tool", rustProgram(t, `{"packages":[
		{"name":"serde","version":"1.0.219","source":"crates.io"},
		{"name":"cc","version":"1.2.0","source":"crates.io","kind":"build"},
		{"name":"tool","version":"0.1.0","source":"local","root":true}]}`), 0o755)
	doc, _ := scanned(t, root)
	want(t, doc, "pkg:cargo/serde@1.0.219", "pkg:cargo/tool@0.1.0")
}

// zipped makes an archive of name, content, name, content, ...
func zipped(t testing.TB, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		f, err := w.Create(members[i])
		if err == nil {
			_, err = f.Write([]byte(members[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestJava(t *testing.T) {
	pom := func(group, artifact, version string) []string {
		return []string{
			"META-INF/maven/" + group + "/" + artifact + "/pom.properties",
			"#by hand\ngroupId=" + group + "\nartifactId=" + artifact + "\nversion=" + version + "\n",
		}
	}
	deeper := string(zipped(t, pom("too", "deep", "1")...))
	inner := string(zipped(t, append(pom("org.slf4j", "slf4j-api", "2.0.17"), "lib/deeper.jar", deeper)...))
	named := string(zipped(t, "x.class", ""))
	spoken := string(zipped(t, "META-INF/MANIFEST.MF",
		"Manifest-Version: 1.0\r\nImplementation-Vendor-Id: com.example\r\nImplementation-Version: 3\r\n\r\nName: x\r\n"))
	root := t.TempDir()
	put(t, root, "srv/app.jar", zipped(t, append(pom("com.example", "app", "1.0"),
		"BOOT-INF/lib/slf4j-api-2.0.17.jar", inner, "BOOT-INF/lib/left-1.2.jar", named, "BOOT-INF/lib/spoken.jar", spoken)...), 0o644)
	doc, _ := scanned(t, root)
	want(t, doc, "pkg:generic/left@1.2", "pkg:maven/com.example/app@1.0", "pkg:maven/com.example/spoken@3",
		"pkg:maven/org.slf4j/slf4j-api@2.0.17")
	if !strings.Contains(doc.DocumentComment, "lib/deeper.jar") {
		t.Errorf("the archive that was not read is not named: %q", doc.DocumentComment)
	}
}
