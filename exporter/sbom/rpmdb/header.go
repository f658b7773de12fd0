package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// The tags and types of rpm's lib/rpmtag.h that we want.
const (
	tagName      = 1000
	tagVersion   = 1001
	tagRelease   = 1002
	tagEpoch     = 1003
	tagVendor    = 1011
	tagLicense   = 1014
	tagURL       = 1020
	tagArch      = 1022
	tagSourceRPM = 1044

	typeInt32  = 4
	typeString = 6
	typeI18N   = 9
)

// parseHeader reads a header as the database keeps it: two counts, an index of 16 bytes per tag, and
// the data that the index points into. See rpm's docs/manual/format_v4.md, "header".
func parseHeader(b []byte) (Package, error) {
	var p Package
	if len(b) < 8 {
		return p, errors.New("a header of less than 8 bytes")
	}
	count, length := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	b = b[8:]
	if count*16 > int64(len(b)) || length > int64(len(b))-count*16 {
		return p, errors.New("a header shorter than it says")
	}
	data := b[count*16 : count*16+length]
	for i := range count {
		e := b[i*16 : i*16+16]
		off := int64(binary.BigEndian.Uint32(e[8:]))
		if off < int64(len(data)) {
			p.set(binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:]), data[off:])
		}
	}
	if p.Name == "" {
		return p, errors.New("a header without a name")
	}
	return p, nil
}

// set takes one tag over, if it is of the type that it should have.
func (p *Package) set(tag, kind uint32, data []byte) {
	if tag == tagEpoch {
		if kind == typeInt32 && len(data) >= 4 {
			p.Epoch = binary.BigEndian.Uint32(data)
		}
		return
	}
	into := map[uint32]*string{
		tagName: &p.Name, tagVersion: &p.Version, tagRelease: &p.Release, tagVendor: &p.Vendor,
		tagLicense: &p.License, tagURL: &p.URL, tagArch: &p.Arch, tagSourceRPM: &p.SourceRPM,
	}[tag]
	if into == nil || kind != typeString && kind != typeI18N {
		return
	}
	if end := bytes.IndexByte(data, 0); end >= 0 && end < 4096 {
		*into = string(data[:end]) // a copy: the header itself is let go
	}
}
