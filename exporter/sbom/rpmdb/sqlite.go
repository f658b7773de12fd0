package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	pageTable = 0x05 // the two kinds of pages of a table's tree
	pageLeaf  = 0x0d

	maxTree = 24 // levels: far more than 2^32 pages can need
)

// sqliteFile is a SQLite 3 database. See https://www.sqlite.org/fileformat2.html.
type sqliteFile struct {
	*db
	page   int64
	usable int64
	left   int64 // pages that may still be visited
}

// sqlite yields the blobs of the table Packages (hnum INTEGER PRIMARY KEY, blob BLOB).
func (d *db) sqlite(yield func([]byte) bool) error {
	head, err := d.bytes(0, 100)
	if err != nil {
		return err
	}
	f := &sqliteFile{db: d, page: int64(binary.BigEndian.Uint16(head[16:]))}
	if f.page == 1 {
		f.page = 64 << 10
	}
	f.usable = f.page - int64(head[20])
	if f.page < 512 || f.page&(f.page-1) != 0 || f.usable < 480 {
		return fmt.Errorf("a page size of %d with %d usable bytes", f.page, f.usable)
	}
	f.left = d.size/f.page + 1
	root, err := f.table("Packages")
	if err != nil || root == 0 {
		return err
	}
	_, err = f.tree(root, 0, func(record []byte) bool {
		cols := columns(record, 2)
		return len(cols) < 2 || yield(cols[1])
	})
	return err
}

// table returns the root page of the table called name.
func (f *sqliteFile) table(name string) (int64, error) {
	var root int64
	_, err := f.tree(1, 0, func(record []byte) bool {
		cols := columns(record, 4)
		if len(cols) == 4 && string(cols[0]) == "table" && string(cols[1]) == name {
			for _, b := range cols[3] {
				root = root<<8 | int64(b)
			}
		}
		return root == 0
	})
	if err == nil && root == 0 {
		err = fmt.Errorf("no table %s", name)
	}
	return root, err
}

// tree yields the records of the table whose tree has the page no at this level.
func (f *sqliteFile) tree(no int64, level int, yield func([]byte) bool) (bool, error) {
	if f.left--; f.left < 0 || level > maxTree || no < 1 {
		return false, errors.New("the pages of a table run in circles")
	}
	page, err := f.bytes((no-1)*f.page, f.page)
	if err != nil {
		return false, err
	}
	head := page
	if no == 1 {
		head = page[100:]
	}
	cells, first := int(binary.BigEndian.Uint16(head[3:])), 8
	if head[0] == pageTable {
		first = 12
	} else if head[0] != pageLeaf {
		return false, fmt.Errorf("page %d is no page of a table", no)
	}
	if first+2*cells > len(head) {
		return false, fmt.Errorf("page %d has more cells than it can hold", no)
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(head[first+2*i:]))
		if at+4 > int(f.usable) {
			return false, fmt.Errorf("page %d: a cell is outside", no)
		}
		more, err := f.cell(head[0], page[at:f.usable], level, yield)
		if !more || err != nil {
			return more, err
		}
	}
	if head[0] == pageTable {
		return f.tree(int64(binary.BigEndian.Uint32(head[8:])), level+1, yield)
	}
	return true, nil
}

// cell goes down into a child, or yields a leaf's record.
func (f *sqliteFile) cell(kind byte, b []byte, level int, yield func([]byte) bool) (bool, error) {
	if kind == pageTable {
		return f.tree(int64(binary.BigEndian.Uint32(b)), level+1, yield)
	}
	length, n := varint(b)
	_, m := varint(b[n:])
	if n == 0 || m == 0 || length < 0 || length > maxHeader {
		return false, fmt.Errorf("a record of %d bytes", length)
	}
	record, err := f.payload(b[n+m:], length)
	if err != nil {
		return false, err
	}
	return yield(record), nil
}

// payload joins what is on the page with the overflow pages. See "Cell Payload Overflow Pages".
func (f *sqliteFile) payload(b []byte, length int64) ([]byte, error) {
	local := length
	if most := f.usable - 35; length > most {
		least := (f.usable-12)*32/255 - 23
		if local = least + (length-least)%(f.usable-4); local > most {
			local = least
		}
	}
	if local > int64(len(b)) || length > local && local+4 > int64(len(b)) {
		return nil, errors.New("a record ends outside of its page")
	}
	if length == local {
		return b[:local], nil
	}
	record := append([]byte(nil), b[:local]...)
	next := int64(binary.BigEndian.Uint32(b[local:]))
	for int64(len(record)) < length {
		if f.left--; f.left < 0 || next < 1 {
			return nil, errors.New("a record's chain of pages is broken")
		}
		page, err := f.bytes((next-1)*f.page, f.page)
		if err != nil {
			return nil, err
		}
		record = append(record, page[4:4+min(f.usable-4, length-int64(len(record)))]...)
		next = int64(binary.BigEndian.Uint32(page))
	}
	return record, nil
}

// columns returns the bytes of the first n columns; fewer if the record is broken.
func columns(record []byte, n int) [][]byte {
	size, at := varint(record)
	if at == 0 || size < int64(at) || size > int64(len(record)) {
		return nil
	}
	types, body := record[at:size], record[size:]
	var cols [][]byte
	for len(cols) < n {
		t, m := varint(types)
		if m == 0 {
			return cols
		}
		length := columnSize(t)
		if length < 0 || length > int64(len(body)) {
			return cols
		}
		cols = append(cols, body[:length])
		types, body = types[m:], body[length:]
	}
	return cols
}

// columnSize is the length of a value of the serial type t.
func columnSize(t int64) int64 {
	switch {
	case t >= 12:
		return (t - 12) / 2
	case t >= 0:
		return [...]int64{0, 1, 2, 3, 4, 6, 8, 8, 0, 0, -1, -1}[t]
	}
	return -1
}

// varint decodes SQLite's big-endian integer of 1 to 9 bytes; a width of 0 means that it is cut off.
func varint(b []byte) (v int64, width int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return v<<8 | int64(b[i]), 9
		}
		v = v<<7 | int64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
