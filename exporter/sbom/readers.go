package sbom

import (
	"io/fs"
	"path"
	"strings"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
)

// reader knows one kind of evidence.
type reader struct {
	what  string // in notes
	limit int64  // a larger file is not read
	wants func(path string, info fs.FileInfo) bool
	read  func(*file) ([]component, error)
}

// budget is what a reader may read in all: parsers of binary formats visit some parts twice.
func (r reader) budget() int64 { return 2*r.limit + mib }

// readers are asked in turn; the first that wants a file has it.
var readers = []reader{
	{"dpkg status", 64 * mib, isDpkg, readDpkg},
	{"apk database", 64 * mib, anyOf("lib/apk/db/installed", "usr/lib/apk/db/installed"), readApk},
	{"rpm database", 512 * mib, isRpm, readRpm},
	{"log of an rpm database", 0, isRpmLog, func(*file) ([]component, error) { return nil, nil }},
	{"python metadata", 4 * mib, isPython, readPython},
	{"npm package", 4 * mib, isNpm, readNpm},
	{"ruby gemspec", mib, isGem, readGem},
	{"java archive", 512 * mib, isJava, readJava},
	{"binary", 1024 * mib, isBinary, readBinary},
}

func anyOf(paths ...string) func(string, fs.FileInfo) bool {
	return func(p string, _ fs.FileInfo) bool {
		for _, want := range paths {
			if p == want {
				return true
			}
		}
		return false
	}
}

func isDpkg(p string, _ fs.FileInfo) bool {
	const statusD = "var/lib/dpkg/status.d/" // distroless images have one file per package
	return p == "var/lib/dpkg/status" || strings.HasPrefix(p, statusD) && !strings.HasSuffix(p, ".md5sums")
}

func inRpmDir(p string) bool {
	switch path.Dir(p) {
	case "var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm":
		return true
	}
	return false
}

func isRpm(p string, _ fs.FileInfo) bool {
	switch path.Base(p) {
	case "Packages", "Packages.db", "rpmdb.sqlite":
		return inRpmDir(p)
	}
	return false
}

// isRpmLog finds what was not yet written into the database itself: a log of more than no bytes
// ends up in the notes, since the list is then incomplete.
func isRpmLog(p string, info fs.FileInfo) bool {
	return path.Base(p) == "rpmdb.sqlite-wal" && inRpmDir(p) && info.Size() > 0
}

func isPython(p string, _ fs.FileInfo) bool {
	dir, base := path.Base(path.Dir(p)), path.Base(p)
	switch base {
	case "METADATA":
		return strings.HasSuffix(dir, ".dist-info")
	case "PKG-INFO":
		return strings.HasSuffix(dir, ".egg-info") || dir == "EGG-INFO"
	}
	return strings.HasSuffix(base, ".egg-info")
}

// isNpm wants installed packages only: a package.json in a source tree is a wish list.
func isNpm(p string, _ fs.FileInfo) bool {
	if path.Base(p) != "package.json" {
		return false
	}
	parent := path.Dir(path.Dir(p))
	if strings.HasPrefix(path.Base(parent), "@") {
		parent = path.Dir(parent)
	}
	return path.Base(parent) == "node_modules"
}

func isGem(p string, _ fs.FileInfo) bool {
	dir := path.Dir(p)
	return strings.HasSuffix(p, ".gemspec") &&
		(path.Base(dir) == "specifications" || path.Base(dir) == "default" && path.Base(path.Dir(dir)) == "specifications")
}

func isJava(p string, _ fs.FileInfo) bool {
	switch strings.ToLower(path.Ext(p)) {
	case ".jar", ".war", ".ear", ".par", ".sar", ".hpi", ".jpi":
		return true
	}
	return false
}

func isBinary(p string, info fs.FileInfo) bool {
	return info.Size() >= 64 && (info.Mode()&0o111 != 0 || strings.Contains(path.Base(p), ".so"))
}
