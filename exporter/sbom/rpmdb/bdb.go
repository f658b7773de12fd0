package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	bdbHash = 0x061561 // the magic number of a hash database

	bdbPageHeader   = 26
	bdbHashUnsorted = 2
	bdbOverflow     = 7
	bdbHashPage     = 13

	bdbInline  = 1 // types of an item on a hash page
	bdbOffPage = 3
)

// bdbFile is a Berkeley DB hash database. See db 5.3's src/dbinc/db_page.h.
type bdbFile struct {
	*db
	order binary.ByteOrder
	page  int64
	left  int64 // overflow bytes that may still be read: chains don't overlap
}

func (d *db) bdb(yield func([]byte) bool) error {
	head, err := d.bytes(0, 72)
	if err != nil {
		return err
	}
	f := &bdbFile{db: d, order: binary.LittleEndian, left: d.size}
	if binary.BigEndian.Uint32(head[12:]) == bdbHash {
		f.order = binary.BigEndian
	}
	f.page = int64(f.order.Uint32(head[20:]))
	if f.page < 512 || f.page > 64<<10 || f.page&(f.page-1) != 0 {
		return fmt.Errorf("a page size of %d", f.page)
	}
	if head[24] != 0 {
		return errors.New("it is encrypted")
	}
	for no := int64(1); (no+1)*f.page <= d.size; no++ {
		page, err := d.bytes(no*f.page, f.page)
		if err != nil {
			return err
		}
		if page[25] != bdbHashPage && page[25] != bdbHashUnsorted {
			continue
		}
		more, err := f.items(page, yield)
		if err != nil {
			return fmt.Errorf("page %d: %w", no, err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// items yields the values of one hash page: keys have even numbers, values odd ones.
func (f *bdbFile) items(page []byte, yield func([]byte) bool) (bool, error) {
	n := int(f.order.Uint16(page[20:]))
	if bdbPageHeader+2*n > len(page) {
		return false, errors.New("more items than the page can hold")
	}
	offset := func(i int) int { return int(f.order.Uint16(page[bdbPageHeader+2*i:])) }
	for i := 1; i < n; i += 2 {
		at, end := offset(i), offset(i-1) // items are filled in from the page's end
		if at < bdbPageHeader || at >= end || end > len(page) {
			return false, fmt.Errorf("item %d is outside of the page", i)
		}
		blob, err := f.value(page[at:end])
		if err != nil {
			return false, err
		}
		if blob != nil && !yield(blob) {
			return false, nil
		}
	}
	return true, nil
}

// value returns a header; nil for the counter that rpm keeps under key 0.
func (f *bdbFile) value(item []byte) ([]byte, error) {
	switch {
	case item[0] == bdbInline && len(item) > 1+8:
		return item[1:], nil
	case item[0] == bdbOffPage && len(item) >= 12:
		return f.chain(int64(f.order.Uint32(item[4:])), int64(f.order.Uint32(item[8:])))
	}
	return nil, nil
}

// chain joins a value of length bytes that begins on page no.
func (f *bdbFile) chain(no, length int64) ([]byte, error) {
	if length > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes", length)
	}
	if f.left -= length; f.left < 0 {
		return nil, errors.New("values overlap")
	}
	var blob []byte
	for no != 0 && int64(len(blob)) < length {
		page, err := f.bytes(no*f.page, f.page)
		if err != nil {
			return nil, err
		}
		n := int64(f.order.Uint16(page[22:]))
		if page[25] != bdbOverflow || n == 0 || bdbPageHeader+n > f.page {
			return nil, fmt.Errorf("page %d is no overflow page", no)
		}
		blob = append(blob, page[bdbPageHeader:bdbPageHeader+n]...)
		no = int64(f.order.Uint32(page[16:]))
	}
	if int64(len(blob)) < length {
		return nil, errors.New("a value shorter than it says")
	}
	return blob[:length], nil
}
