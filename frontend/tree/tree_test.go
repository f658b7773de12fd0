package tree

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tonistiigi/fsutil"
)

// plant makes files, and directories where a name ends in a slash.
func plant(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, n := range names {
		path := filepath.Join(root, n)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func sign(t *testing.T, root string, of Selection) Signature {
	t.Helper()
	s, err := Sign(root, of)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What a build reads changes the signature of its selection, and what it does not read does not.
func TestSignatureIsOfTheSelection(t *testing.T) {
	dockerignore := []string{"node_modules", "*.log", "deep/*", "!deep/kept", "!kept.log"}
	for name, c := range map[string]struct {
		of      Selection
		changed string
		seen    bool
	}{
		"a file":                              {Selection{}, "src/a", true},
		"a new file":                          {Selection{}, "src/new", true},
		"an ignored directory":                {Selection{Exclude: []string{"node_modules"}}, "node_modules/x/y", false},
		"beside an ignored directory":         {Selection{Exclude: []string{"node_modules"}}, "src/a", true},
		"an ignored file":                     {Selection{Exclude: []string{"*.log"}}, "build.log", false},
		"an exception":                        {Selection{Exclude: dockerignore}, "kept.log", true},
		"an exception in what is ignored":     {Selection{Exclude: dockerignore}, "deep/kept/x", true},
		"ignored beside an exception":         {Selection{Exclude: dockerignore}, "deep/gone", false},
		"a followed directory":                {Selection{Follow: []string{"src"}}, "src/a", true},
		"not followed":                        {Selection{Follow: []string{"src"}}, "other", false},
		"ignored in a followed directory":     {Selection{Follow: []string{"src"}, Exclude: []string{"src/tmp"}}, "src/tmp/x", false},
		"a followed directory that's ignored": {Selection{Follow: []string{"src/tmp"}, Exclude: []string{"src"}}, "src/tmp/x", false},
		"behind a link":                       {Selection{Follow: []string{"link"}}, "src/a", true},
		"ignored, but the way of a link": {Selection{Follow: []string{"link"}, Exclude: []string{"node_modules"}},
			"node_modules/x/y", true},
		"a wildcard":                    {Selection{Follow: []string{"s*"}}, "src/a", true},
		"ignoring what can't be parsed": {Selection{Exclude: []string{"[", "src"}}, "src/a", true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			plant(t, root, "src/a", "src/tmp/x", "other", "node_modules/x/y", "build.log", "kept.log", "deep/kept/x", "deep/gone")
			if err := os.Symlink("src", filepath.Join(root, "link")); err != nil {
				t.Fatal(err)
			}
			before := sign(t, root, c.of)
			if again := sign(t, root, c.of); again != before {
				t.Fatalf("nothing has changed: %+v, then %+v", before, again)
			}
			if err := os.WriteFile(filepath.Join(root, c.changed), []byte("changed"), 0o644); err != nil {
				t.Fatal(err)
			}
			if after := sign(t, root, c.of); (after.Hash != before.Hash) != c.seen {
				t.Errorf("a change of %s is seen: %v", c.changed, !c.seen)
			}
		})
	}
}

// The signature leaves out nothing that the build's own reading, which is fsutil's, does not leave out.
func TestIgnoredIsWhatIsNotRead(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a", "b/c", "b/d/e", "b/d/f", "x/y/z", ".git/HEAD", "k/l.md", "k/README.md")
	for _, patterns := range [][]string{
		{"b"}, {"b/*", "!b/d"}, {"**", "!x"}, {"*", "!b/d/e"}, {".git"}, {"**/*.md", "!**/README.md"}, {"b/d/", "k"}, {"/x"}, {"x/../b"},
	} {
		of := Selection{Exclude: patterns}
		read := map[string]bool{}
		open, err := of.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		err = open.Walk(t.Context(), "", func(path string, _ os.DirEntry, err error) error {
			read["/"+path] = true
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"/a", "/b/c", "/b/d/e", "/b/d/f", "/x/y/z", "/.git/HEAD", "/k/l.md", "/k/README.md"} {
			before := sign(t, root, of)
			if err := os.Chtimes(filepath.Join(root, file), time.Time{}, time.Now()); err != nil {
				t.Fatal(err)
			}
			if seen := sign(t, root, of).Hash != before.Hash; seen != read[file] {
				t.Errorf("%q: %s is read: %v, its change is seen: %v", patterns, file, read[file], seen)
			}
		}
	}
}

func TestIdentity(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "d/f")
	d, err := Identify(filepath.Join(root, "d"))
	if err != nil || !d.Here() {
		t.Fatalf("%+v, %v", d, err)
	}
	if got := ParseSharedKey(SharedKey(map[string]Directory{"context": d})); got["context"] != d {
		t.Errorf("%+v came back as %+v", d, got)
	}
	for name, change := range map[string]func(*Directory){
		"another device": func(d *Directory) { d.Dev++ }, "another inode": func(d *Directory) { d.Inode++ },
		"another mount namespace": func(d *Directory) { d.Mounts++ }, "gone": func(d *Directory) { d.Path += "x" },
	} {
		other := d
		if change(&other); other.Here() {
			t.Errorf("%s is the same directory", name)
		}
	}
	if _, err := Identify(filepath.Join(root, "d/f")); err == nil {
		t.Error("a file is a directory")
	}
	if got := ParseSharedKey("someone-elses-key"); got != nil {
		t.Errorf("%v", got)
	}
}

func TestSettled(t *testing.T) {
	fine := time.Unix(1000, 5)
	whole := time.Unix(1000, 0)
	for _, c := range []struct {
		stamp time.Time
		after time.Duration
		want  bool
	}{{fine, 10 * time.Millisecond, false}, {fine, 50 * time.Millisecond, true}, {whole, time.Second, false},
		{whole, 3 * time.Second, true}} {
		if got := (Signature{Newest: c.stamp}).Settled(c.stamp.Add(c.after)); got != c.want {
			t.Errorf("%v after %v: %v", c.after, c.stamp, got)
		}
	}
}

func TestDiffering(t *testing.T) {
	now, before := t.TempDir(), t.TempDir()
	plant(t, now, "same", "changed", "new", "mode", "d/touched")
	plant(t, before, "same", "changed", "gone", "mode", "d/touched")
	for _, err := range []error{
		os.WriteFile(filepath.Join(now, "changed"), []byte("CHANGED"), 0o644),
		os.Chmod(filepath.Join(now, "mode"), 0o600),
		os.Chtimes(filepath.Join(now, "d/touched"), time.Time{}, time.Unix(5, 0)),
		os.Symlink("a", filepath.Join(now, "link")),
		os.Symlink("b", filepath.Join(before, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	fresh, err := fsutil.NewFS(now)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Differing(t.Context(), fresh, before)
	if want := []string{"changed", "gone (gone)", "link", "mode", "new (new)"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
