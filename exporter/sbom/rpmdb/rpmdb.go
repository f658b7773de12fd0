// Package rpmdb lists the packages in an rpm database that may be hostile: Berkeley DB (rpm up to
// 4.15), ndb (SUSE) and SQLite (rpm 4.16 and later). Only tables of headers are read, no index, and
// nothing is ever written. It refuses what it does not know rather than guess, and its running time
// is bounded by the size of the file: a page is visited once, a chain of pages never comes back.
package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Package is what a header says about one installed package.
type Package struct {
	Name, Version, Release, Arch string
	License, Vendor, URL         string
	SourceRPM                    string
	Epoch                        uint32
}

// maxHeader is rpm's own limit for a header's data (rpm 4.14: HEADER_DATA_MAX, 256 MiB), made
// smaller: a kernel's header with 20,000 files has 3 MiB.
const maxHeader = 64 << 20

// Read calls yield for each package of the database r, until it returns false. Headers that can't be
// read are counted in the error, which then comes after all the others were yielded.
func Read(r io.ReaderAt, size int64, yield func(Package) bool) error {
	var head [72]byte
	if size < int64(len(head)) {
		if size == 0 {
			return nil // rpm makes an empty file first
		}
		return errors.New("too short for an rpm database")
	}
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return err
	}
	d := &db{r: r, size: size}
	walk := d.format(head[:])
	if walk == nil {
		return errors.New("neither a Berkeley, an ndb nor a SQLite database")
	}
	bad, n := error(nil), 0
	err := walk(func(blob []byte) bool {
		p, err := parseHeader(blob)
		if err != nil {
			bad, n = err, n+1
			return true
		}
		return yield(p)
	})
	if err == nil && n > 0 {
		err = fmt.Errorf("%d packages have headers that can't be read, the last: %w", n, bad)
	}
	return err
}

type db struct {
	r    io.ReaderAt
	size int64
}

// format picks the walk over the blobs by the file's magic number.
func (d *db) format(head []byte) func(func([]byte) bool) error {
	switch {
	case string(head[:16]) == "SQLite format 3\x00":
		return d.sqlite
	case string(head[:4]) == "RpmP":
		return d.ndb
	case binary.LittleEndian.Uint32(head[12:]) == bdbHash, binary.BigEndian.Uint32(head[12:]) == bdbHash:
		return d.bdb
	}
	return nil
}

// bytes returns n bytes at off.
func (d *db) bytes(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > d.size || n > d.size-off {
		return nil, fmt.Errorf("bytes %d to %d are beyond the end of the file", off, off+n)
	}
	b := make([]byte, n)
	_, err := d.r.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil // the last bytes of the file may come with it
	}
	return b, err
}
