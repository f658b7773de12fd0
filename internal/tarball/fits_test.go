package tarball

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// Bomb is an archive of a sparse file that has size bytes and no data (GNU tar, "PAX Format, Version 1.0").
func bomb(t *testing.T, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	pax := ""
	for _, kv := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=huge",
		fmt.Sprint("GNU.sparse.realsize=", size)} {
		n := len(kv) + 3
		for len(fmt.Sprintf("%d %s\n", n, kv)) != n {
			n++
		}
		pax += fmt.Sprintf("%d %s\n", n, kv)
	}
	header := func(kind byte, size int) {
		h := make([]byte, 512)
		copy(h, "huge")
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00", size))
		copy(h[148:], "        ")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
	}
	block := func(text string) {
		b.WriteString(text)
		b.Write(make([]byte, (512-len(text)%512)%512))
	}
	header('x', len(pax))
	block(pax)
	sparse := fmt.Sprintf("1\n%d\n0\n", size)
	header('0', 512)
	block(sparse)
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func TestFits(t *testing.T) {
	dir := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 10 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", i), Size: 1000, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, strings.Repeat("x", 1000))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string][]byte{"a tar": b.Bytes(), "half a tar": b.Bytes()[:3000],
		"text": []byte("no tar"), "nothing": nil} {
		if got, err := io.ReadAll(Fits(bytes.NewReader(data), dir)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes of %d, %v", what, len(got), len(data), err)
		}
	}
	data := bomb(t, 1<<60)
	if h, err := tar.NewReader(bytes.NewReader(data)).Next(); err != nil || h.Size != 1<<60 {
		t.Fatalf("the bomb is none: %+v, %v", h, err)
	}
	if _, err := io.ReadAll(Fits(bytes.NewReader(data), dir)); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"huge"`) {
		t.Errorf("%v", err)
	}
	r := Fits(bytes.NewReader(b.Bytes()), dir)
	_, _ = r.Read(make([]byte, 10))
	if err := r.Close(); err != nil { // and nobody waits for ever
		t.Error(err)
	}
}
