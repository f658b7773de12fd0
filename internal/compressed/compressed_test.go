package compressed

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/gantry-build/gantry/internal/need"
)

func packed(t *testing.T, text []byte, tool string, args ...string) []byte {
	t.Helper()
	need.Tool(t, tool)
	cmd := exec.Command(tool, args...)
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	return out
}

// What the usual programs pack is read, also in several parts, and what is cut off is an error.
func TestFormats(t *testing.T) {
	text := []byte(strings.Repeat("a line of text\n", 100_000))
	for name, in := range map[string][]byte{
		"gzip": packed(t, text, "gzip", "-c"), "bzip2": packed(t, text, "bzip2", "-c"), "xz": packed(t, text, "xz", "-c"),
		"xz of several blocks": packed(t, text, "xz", "-c", "-9", "-T2", "--block-size=65536"), "zstd": packed(t, text, "zstd", "-c"),
		"nothing": text,
	} {
		read := func(in []byte) ([]byte, error) {
			r, err := Open(bytes.NewReader(in))
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		}
		if got, err := read(in); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: %d bytes came back, %v", name, len(got), err)
		}
		if name == "nothing" {
			continue
		}
		if got, err := read(append(bytes.Clone(in), in...)); err != nil || len(got) != 2*len(text) {
			t.Errorf("%s, twice: %d bytes came back, %v", name, len(got), err)
		}
		if _, err := read(in[:len(in)/2]); err == nil {
			t.Errorf("half of %s is whole", name)
		}
	}
}

// endless is zeros without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBombs(t *testing.T) {
	small := limits{size: 4 << 20, ratio: 1000}
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(z, endless{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := open(bytes.NewReader(b.Bytes()), small)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, ErrBomb) || n > small.ratio*int64(b.Len())+1<<20 {
		t.Errorf("%d bytes of %d, %v", n, b.Len(), err)
	}

	// The header of a stream, and of a block whose dictionary has 4 GiB (40).
	x := strings.NewReader("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46" + "\x02\x00\x21\x01\x28\x00\x00\x00")
	if _, err := Open(x); err == nil || !strings.Contains(err.Error(), "256 MiB") {
		t.Errorf("a huge dictionary: %v", err)
	}
}
