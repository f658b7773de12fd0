package qemu

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hostTable is where a machine's own binfmt_misc is mounted, if it is.
const hostTable = "/proc/sys/fs/binfmt_misc"

// entry is a registration that somebody else made in the host's table.
type entry struct {
	name        string
	interpreter string
	flags       string
	enabled     bool
	magic, mask []byte
}

// starts tells whether the kernel hands executables of t to the entry.
func (e entry) starts(t target) bool {
	head := t.magic()
	if !e.enabled || len(e.magic) == 0 || len(e.magic) > len(head) || len(e.mask) != len(e.magic) {
		return false
	}
	for i := range e.magic {
		if (head[i]^e.magic[i])&e.mask[i] != 0 {
			return false
		}
	}
	return true
}

// reaches tells whether the entry works where its emulator is not installed:
// only flag F makes the kernel keep the emulator open.
func (e entry) reaches() bool { return strings.Contains(e.flags, "F") }

// readEntries reads a mounted table. One that is not mounted, or is switched off,
// has no entries.
func readEntries(dir string) ([]entry, error) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && strings.TrimSpace(string(status)) != "enabled") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, n := range names {
		if n.Name() == "register" || n.Name() == "status" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, n.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		all = append(all, parseEntry(n.Name(), text))
	}
	return all, nil
}

// parseEntry reads an entry as fs/binfmt_misc.c (entry_status) prints it. Entries
// by file extension come out without magic and start nothing of ours.
func parseEntry(name string, text []byte) entry {
	e := entry{name: name}
	offset := "0"
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "enabled":
			e.enabled = true
		case "interpreter":
			e.interpreter = value
		case "flags:":
			e.flags = value
		case "offset":
			offset = value
		case "magic":
			e.magic, _ = hex.DecodeString(value)
		case "mask":
			e.mask, _ = hex.DecodeString(value)
		}
	}
	if offset != "0" {
		e.magic = nil
	}
	if e.mask == nil {
		e.mask = bytes.Repeat([]byte{0xff}, len(e.magic))
	}
	return e
}
