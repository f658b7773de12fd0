package sbom

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-build/gantry/internal/need"
)

// link makes a symbolic link below root.
func link(t testing.TB, root, target, name string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

const oneStanza = "Package: evil\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"

func TestLinksStayInside(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "status", []byte(oneStanza), 0o644)
	put(t, outside, "os-release", []byte("ID=outside\nVERSION_ID=1\n"), 0o644)
	put(t, outside, "copyright", []byte("Format: copyright-format/1.0\n\nLicense: Secret\n"), 0o644)
	root := t.TempDir()
	link(t, root, outside+"/status", "var/lib/dpkg/status")
	link(t, root, outside, "var/lib/dpkg/status.d")
	link(t, root, "../../"+strings.TrimPrefix(outside, filepath.Dir(filepath.Dir(root)))+"/os-release", "etc/os-release")
	link(t, root, outside, "usr/share/doc/musl")
	link(t, root, "loop2", "loop1")
	link(t, root, "loop1", "loop2")
	link(t, root, ".", "self")
	link(t, root, "..", "usr/up")
	put(t, root, "lib/apk/db/installed", []byte("P:musl\nV:1\n"), 0o644)
	put(t, root, "usr/lib/dpkg/x", nil, 0o644)
	doc, b := scanned(t, root)
	want(t, doc, "pkg:apk/alpine/musl@1")
	if bytes.Contains(b, []byte("outside")) || bytes.Contains(b, []byte("Secret")) || bytes.Contains(b, []byte("evil")) {
		t.Error("something from outside of the root is in the document")
	}
}

func TestPipesAndDevices(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"var/lib/dpkg", "lib/apk/db", "etc", "usr"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"var/lib/dpkg/status", "etc/os-release", "usr/x.jar"} {
		if err := syscall.Mkfifo(filepath.Join(root, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// A tape of Linux: opening it would fail with ENXIO, which a note would show.
	err := syscall.Mknod(filepath.Join(root, "lib/apk/db/installed"), syscall.S_IFCHR|0o666, 9<<8)
	if err != nil {
		need.Miss(t, "a device can't be made: "+err.Error())
	}
	done := make(chan *Document, 1)
	go func() {
		doc, _ := scanned(t, root)
		done <- doc
	}()
	select {
	case doc := <-done:
		if want(t, doc); doc.DocumentComment != "" {
			t.Errorf("something was opened: %s", doc.DocumentComment)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the scan hangs on a pipe")
	}
}

// sparse makes a file of n bytes that takes no room.
func sparse(t testing.TB, root, name string, b []byte, n int64) {
	t.Helper()
	put(t, root, name, b, 0o755)
	if err := os.Truncate(filepath.Join(root, name), n); err != nil {
		t.Fatal(err)
	}
}

func TestHugeFiles(t *testing.T) {
	root := t.TempDir()
	sparse(t, root, "var/lib/dpkg/status", []byte(oneStanza), 1<<30)
	sparse(t, root, "lib/apk/db/installed", []byte("P:musl\nV:1\n"), 60<<20) // may be read: one endless line
	sparse(t, root, "var/lib/rpm/Packages", bdbOf(4096), 500<<20)
	sparse(t, root, "usr/lib/node_modules/a/package.json", []byte(`{"name":"a`), 4<<20)
	sparse(t, root, "app", []byte("\x7fELF\x02\x01\x01"), 1<<30)
	sparse(t, root, "app.jar", []byte("PK\x03\x04"), 512<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	doc, _ := scanned(t, root)
	runtime.ReadMemStats(&after)
	want(t, doc, "pkg:apk/alpine/musl@1")
	for _, name := range []string{"/var/lib/dpkg/status: not read",
		"/lib/apk/db/installed: ", "/app.jar: ", "/usr/lib/node_modules/a/package.json: "} {
		if !strings.Contains(doc.DocumentComment, name) {
			t.Errorf("no word of %s in: %s", name, doc.DocumentComment)
		}
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 256<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// bdbOf is the first page of a Berkeley database.
func bdbOf(page uint32) []byte {
	b := make([]byte, 72)
	binary.LittleEndian.PutUint32(b[12:], 0x061561)
	binary.LittleEndian.PutUint32(b[20:], page)
	return b
}

func TestZipBomb(t *testing.T) {
	zeros := strings.Repeat("\x00", 64<<20)
	member := string(zipped(t, "META-INF/maven/a/b/pom.properties", zeros))
	var many []string
	for range 20 {
		many = append(many, "lib/x.jar", zeros) // 1.3 GB in 1.3 MB
	}
	root := t.TempDir()
	put(t, root, "bomb.jar", zipped(t, append([]string{"lib/a.jar", member}, many...)...), 0o644)
	put(t, root, "good.jar", zipped(t, "pom.properties", "groupId=g\nartifactId=a\nversion=1\n"), 0o644)
	doc, _ := scanned(t, root)
	want(t, doc, "pkg:maven/g/a@1")
	if !strings.Contains(doc.DocumentComment, "the rest of the archive is not read") {
		t.Errorf("the bomb is not named: %s", doc.DocumentComment)
	}
}

func TestDeepTree(t *testing.T) {
	root := t.TempDir()
	put(t, root, strings.Repeat("d/", maxDepth+5)+"app.jar", zipped(t, "pom.properties", "groupId=g\nartifactId=a\nversion=1\n"), 0o644)
	doc, _ := scanned(t, root)
	want(t, doc)
	if !strings.Contains(doc.DocumentComment, "levels deep") {
		t.Errorf("comment: %q", doc.DocumentComment)
	}
}

func TestDirtyText(t *testing.T) {
	root := t.TempDir()
	put(t, root, "var/lib/dpkg/status",
		[]byte("Package: a\x1b[31m\xff b\nStatus: install ok installed\nVersion: 1\x00\nArchitecture: é\n\n"+
			"Status: install ok installed\nVersion: nameless\n"), 0o644)
	put(t, root, "etc/os-release", []byte("ID=\"De\x07bian\"\nVERSION_ID='12'\n"), 0o644)
	put(t, root, "bad\xff\nname.jar", []byte("PK"), 0o644)
	doc, b := scanned(t, root)
	want(t, doc, "pkg:deb/debian/a%5B31m%20b@1?arch=%C3%A9&distro=debian-12")
	if bytes.ContainsAny(b, "\x1b\x00\x07") || !strings.Contains(doc.DocumentComment, "without a name") {
		t.Errorf("%s", b)
	}
}
