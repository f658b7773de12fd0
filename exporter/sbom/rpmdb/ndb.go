package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ndb walks rpm's own format: pages of slots, each of which points to a blob in blocks of 16 bytes.
// See rpm's lib/backend/ndb/rpmpkg.c.
func (d *db) ndb(yield func([]byte) bool) error {
	const page, slot, header = 4096, 16, 32
	head, err := d.bytes(0, header)
	if err != nil {
		return err
	}
	if v := binary.LittleEndian.Uint32(head[4:]); v != 0 {
		return fmt.Errorf("ndb version %d is unknown", v)
	}
	left := d.size // blobs don't overlap
	for no, start := int64(0), header; no < int64(binary.LittleEndian.Uint32(head[12:])); no, start = no+1, 0 {
		slots, err := d.bytes(no*page, page)
		if err != nil {
			return err
		}
		for off := start; off < page; off += slot {
			s := slots[off : off+slot]
			if string(s[:4]) != "Slot" {
				return errors.New("a slot without its magic")
			}
			index, at := binary.LittleEndian.Uint32(s[4:]), int64(binary.LittleEndian.Uint32(s[8:]))*slot
			if index == 0 || at == 0 {
				continue // free
			}
			blob, err := d.ndbBlob(at, index)
			if err != nil {
				return err
			}
			if left -= int64(len(blob)) + slot; left < 0 {
				return errors.New("blobs overlap")
			}
			if !yield(blob) {
				return nil
			}
		}
	}
	return nil
}

func (d *db) ndbBlob(at int64, index uint32) ([]byte, error) {
	head, err := d.bytes(at, 16)
	if err != nil {
		return nil, err
	}
	if string(head[:4]) != "BlbS" || binary.LittleEndian.Uint32(head[4:]) != index {
		return nil, fmt.Errorf("package %d has no blob at its place", index)
	}
	length := int64(binary.LittleEndian.Uint32(head[12:]))
	if length > maxHeader {
		return nil, fmt.Errorf("package %d has a header of %d bytes", index, length)
	}
	return d.bytes(at+16, length)
}
