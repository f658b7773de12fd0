package rpmdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// header makes what rpm keeps of a package; filler makes it longer than a page.
func header(p Package, filler int) []byte {
	var index, data []byte
	add := func(tag, kind uint32, value []byte) {
		for _, v := range []uint32{tag, kind, uint32(len(data)), 1} {
			index = binary.BigEndian.AppendUint32(index, v)
		}
		data = append(data, value...)
	}
	for _, f := range []struct {
		tag   uint32
		value string
	}{
		{tagName, p.Name}, {tagVersion, p.Version}, {tagRelease, p.Release}, {tagVendor, p.Vendor},
		{tagLicense, p.License}, {tagURL, p.URL}, {tagArch, p.Arch}, {tagSourceRPM, p.SourceRPM},
	} {
		add(f.tag, typeString, []byte(f.value+"\x00"))
	}
	add(1004, typeI18N, []byte(strings.Repeat("s", filler)+"\x00"))
	add(tagEpoch, typeInt32, binary.BigEndian.AppendUint32(nil, p.Epoch))
	out := binary.BigEndian.AppendUint32(nil, uint32(len(index)/16))
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	return append(append(out, index...), data...)
}

// fixture is the list that all test databases hold; testdata/rpmdb.sqlite was made with the same.
func fixture(n int) []Package {
	var all []Package
	for i := range n {
		all = append(all, Package{
			Name: fmt.Sprintf("pkg%03d", i), Version: "1." + fmt.Sprint(i), Release: "2.fc42", Arch: "x86_64",
			License: "MIT", Vendor: "Acme", URL: "https://acme.example", SourceRPM: "pkg.src.rpm", Epoch: uint32(i % 3),
		})
	}
	return all
}

func filler(i int) int { return i * 97 % 9000 }

func read(t *testing.T, b []byte) []Package {
	t.Helper()
	var all []Package
	if err := Read(bytes.NewReader(b), int64(len(b)), func(p Package) bool { all = append(all, p); return true }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func same(t *testing.T, got, want []Package) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %d packages, wanted %d; first: %+v", len(got), len(want), got[:min(1, len(got))])
	}
}

// The file comes from testdata/sqlite.py, that is from SQLite itself: 100 packages in a tree of
// several levels, most of them with overflow pages, and some deleted again.
func TestSQLite(t *testing.T) {
	b, err := os.ReadFile("testdata/rpmdb.sqlite")
	if err != nil {
		t.Fatal(err)
	}
	want := slices.DeleteFunc(fixture(100), func(p Package) bool { return strings.HasSuffix(p.Name, "7") })
	same(t, read(t, b), want)
}

// bdbFixture writes a hash database of one hash page and a chain of overflow pages per package.
func bdbFixture(all []Package, order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}) []byte {
	const size = 4096
	pages := [][]byte{make([]byte, size), make([]byte, size)}
	order.PutUint32(pages[0][12:], bdbHash)
	order.PutUint32(pages[0][20:], size)
	hash, end, items := pages[1], size, 0
	hash[25] = bdbHashPage
	item := func(b []byte) {
		end -= len(b)
		copy(hash[end:], b)
		order.PutUint16(hash[bdbPageHeader+2*items:], uint16(end))
		items++
	}
	item([]byte{bdbInline, 0, 0, 0, 0})
	item([]byte{bdbInline, 9, 0, 0, 0})
	for i, p := range all {
		blob := header(p, filler(i))
		item([]byte{bdbInline, byte(i + 1), 0, 0, 0})
		off := order.AppendUint32([]byte{bdbOffPage, 0, 0, 0}, uint32(len(pages)))
		item(order.AppendUint32(off, uint32(len(blob))))
		for len(blob) > 0 {
			page := make([]byte, size)
			n := copy(page[bdbPageHeader:], blob)
			blob = blob[n:]
			page[25] = bdbOverflow
			order.PutUint16(page[22:], uint16(n))
			if len(blob) > 0 {
				order.PutUint32(page[16:], uint32(len(pages)+1))
			}
			pages = append(pages, page)
		}
	}
	order.PutUint16(hash[20:], uint16(items))
	return bytes.Join(pages, nil)
}

func TestBerkeley(t *testing.T) {
	all := fixture(40)
	same(t, read(t, bdbFixture(all, binary.LittleEndian)), all)
	same(t, read(t, bdbFixture(all, binary.BigEndian)), all)
}

// ndbFixture writes one page of slots, two of which are free, and the blobs.
func ndbFixture(all []Package) []byte {
	le := binary.LittleEndian
	out := make([]byte, 4096)
	copy(out, "RpmP")
	le.PutUint32(out[12:], 1)
	for off := 32; off < 4096; off += 16 {
		copy(out[off:], "Slot")
	}
	for i, p := range all {
		slot := out[32+16*(i+2):]
		le.PutUint32(slot[4:], uint32(i+1))
		le.PutUint32(slot[8:], uint32(len(out)/16))
		blob := header(p, filler(i))
		head := append([]byte("BlbS"), make([]byte, 12)...)
		le.PutUint32(head[4:], uint32(i+1))
		le.PutUint32(head[12:], uint32(len(blob)))
		out = append(append(out, head...), blob...)
		out = append(out, make([]byte, (16-len(out)%16)%16)...)
	}
	return out
}

func TestNdb(t *testing.T) {
	all := fixture(40)
	same(t, read(t, ndbFixture(all)), all)
}

func TestRefusals(t *testing.T) {
	loop := bdbFixture(fixture(4), binary.LittleEndian)
	binary.LittleEndian.PutUint32(loop[2*4096+16:], 2) // an overflow page that follows itself
	for name, b := range map[string][]byte{
		"short": []byte("SQLite"), "other": make([]byte, 100), "loop": loop,
		"cut":       ndbFixture(fixture(4))[:4500],
		"no tables": append([]byte("SQLite format 3\x00\x10\x00"), make([]byte, 5000)...),
	} {
		err := Read(bytes.NewReader(b), int64(len(b)), func(Package) bool { return true })
		if name != "loop" && err == nil { // of the loop it is enough that it ends
			t.Errorf("%s: no error", name)
		}
	}
	if err := Read(bytes.NewReader(nil), 0, nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	sqlite, err := os.ReadFile("testdata/rpmdb.sqlite")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sqlite[:8<<10])
	f.Add(bdbFixture(fixture(2), binary.LittleEndian))
	f.Add(ndbFixture(fixture(2)))
	f.Add(header(fixture(1)[0], 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = parseHeader(b)
		n := 0
		_ = Read(bytes.NewReader(b), int64(len(b)), func(Package) bool { n++; return true })
		if n > len(b) {
			t.Errorf("%d packages out of %d bytes", n, len(b))
		}
	})
}
