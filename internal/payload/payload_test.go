package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/gantry-build/gantry/internal/need"
)

const script = "#!/bin/sh\necho carried\n"

// packedScript is a bundle of one program. edit may spoil its manifest.
func packedScript(t *testing.T, edit func(*Manifest)) bundle {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(script))
	m := Manifest{Arch: "amd64", Programs: []Program{{Name: "tool", Version: "1.2", SHA256: hex.EncodeToString(sum[:]),
		Size: int64(len(script))}}}
	if edit != nil {
		edit(&m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return bundle{arch: "amd64", files: fstest.MapFS{
		ManifestName: {Data: text},
		"tool.zst":   {Data: z.EncodeAll([]byte(script), nil)},
	}}
}

func TestExtract(t *testing.T) {
	b, dir := packedScript(t, nil), filepath.Join(t.TempDir(), "new")
	path, err := b.extract(dir, "tool")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).Output(); err != nil || string(out) != "carried\n" {
		t.Fatalf("running it: %q, %v", out, err)
	}
	if name := filepath.Base(filepath.Dir(path)); !strings.HasPrefix(name, "tool-") || len(name) != len("tool-")+12 {
		t.Errorf("directory is called %s", name)
	}
	before, _ := os.Stat(path)
	again, err := b.extract(dir, "tool")
	if err != nil || again != path {
		t.Fatalf("second time: %s, %v", again, err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("second call unpacked again")
	}
}

// What a kill -9 leaves at any moment: a temporary directory, or a program whose
// data had not reached the disk.
func TestExtractAfterKill(t *testing.T) {
	b, dir := packedScript(t, nil), t.TempDir()
	path, err := b.extract(dir, "tool")
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, ".tool.tmp123")
	if err := os.Mkdir(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := b.extract(dir, "tool"); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != script {
		t.Errorf("program is %q", text)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Errorf("%s is still there", dead)
	}
}

func TestExtractTogether(t *testing.T) {
	b, dir := packedScript(t, nil), t.TempDir()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			path, err := b.extract(dir, "tool")
			if err != nil {
				t.Error(err)
				return
			}
			if out, err := exec.Command(path).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	rest, err := filepath.Glob(filepath.Join(dir, ".*tmp*"))
	if err != nil || len(rest) > 0 {
		t.Errorf("left behind: %v, %v", rest, err)
	}
}

func TestExtractRefuses(t *testing.T) {
	for _, c := range []struct {
		name, program, want string
		edit                func(*Manifest)
	}{
		{"unknown", "other", "this gantry was built without other; build it with `make build`", nil},
		{"digest", "tool", "damaged", func(m *Manifest) { m.Programs[0].SHA256 = strings.Repeat("0", 64) }},
		{"longer", "tool", "damaged", func(m *Manifest) { m.Programs[0].Size = 4 }},
		{"shorter", "tool", "damaged", func(m *Manifest) { m.Programs[0].Size = 4000 }},
		{"arch", "tool", "carries a tool for arm64", func(m *Manifest) { m.Arch = "arm64" }},
		{"name", "../tool", "damaged", func(m *Manifest) { m.Programs[0].Name = "../tool" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := packedScript(t, c.edit).extract(dir, c.program)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want %q", err, c.want)
			}
			if found, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(found) > 0 {
				t.Errorf("left behind: %v", found)
			}
		})
	}
}

func TestNothingCarried(t *testing.T) {
	_, err := bundle{files: fstest.MapFS{"README": {}}, arch: "amd64"}.extract(t.TempDir(), "runc")
	if want := "this gantry was built without runc; build it with `make build`"; err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

// TestCarried unpacks what this very build carries and starts it.
func TestCarried(t *testing.T) {
	if len(Names()) == 0 {
		need.Miss(t, "this build carries no programs; run `make payload`")
	}
	dir := t.TempDir()
	for _, name := range Names() {
		path, err := Extract(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(path, "--version").CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(Version(name))) {
			t.Errorf("%s --version: %v, %q; want version %s", name, err, out, Version(name))
		}
		if name == "runc" && !bytes.Contains(out, []byte("libseccomp:")) {
			t.Errorf("runc has no seccomp: %q", out)
		}
	}
}
