// Pack compresses the programs that gantry is to carry and lists them in a
// manifest. The Makefile runs it:
//
//	pack -arch amd64 -out internal/payload/bin runc=.cache/payload/amd64/runc ...
//
// A program's version is the first line of the file PROGRAM.version beside it.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/gantry-build/gantry/internal/payload"
)

func main() {
	arch := flag.String("arch", "", "GOARCH that the programs run on")
	out := flag.String("out", "", "directory to write to")
	level := flag.Int("level", 19, "of the compression, as zstd counts")
	flag.Parse()
	if err := pack(*arch, *out, *level, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// pack writes the manifest last: a build never sees one without its programs.
func pack(arch, out string, level int, programs []string) error {
	if arch == "" || out == "" || len(programs) == 0 {
		return errors.New("usage: pack -arch GOARCH -out DIR NAME=PROGRAM [NAME=PROGRAM]")
	}
	list := filepath.Join(out, payload.ManifestName)
	if err := removeOld(out); err != nil {
		return err
	}
	m := payload.Manifest{Arch: arch}
	for _, arg := range programs {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=PROGRAM", arg)
		}
		p, err := compress(out, name, path, level)
		if err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		m.Programs = append(m.Programs, p)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return replace(list, append(text, '\n'))
}

// removeOld removes what an earlier run packed, perhaps for another architecture.
func removeOld(out string) error {
	old, err := filepath.Glob(filepath.Join(out, "*.zst"))
	if err != nil {
		return err
	}
	for _, path := range append(old, filepath.Join(out, payload.ManifestName)) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func compress(out, name, path string, level int) (payload.Program, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return payload.Program{}, err
	}
	version, err := os.ReadFile(path + ".version")
	if err != nil {
		return payload.Program{}, err
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithWindowSize(16<<20))
	if err != nil {
		return payload.Program{}, err
	}
	if _, err := z.Write(program); err != nil {
		return payload.Program{}, err
	}
	if err := z.Close(); err != nil {
		return payload.Program{}, err
	}
	sum := sha256.Sum256(program)
	first, _, _ := strings.Cut(string(version), "\n")
	return payload.Program{Name: name, Version: first, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(program))},
		replace(filepath.Join(out, name+".zst"), packed.Bytes())
}

func replace(path string, text []byte) error {
	temp := path + ".tmp"
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
