package solver

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

type closing struct{ bytes.Buffer }

func (*closing) Close() error { return nil }

// printed is what comes out of a log with a limit when lines go into it, in pieces of a size, by turns on
// two streams when both is set.
func printed(t *testing.T, limit int64, text string, piece int, both bool) (out, errs string) {
	t.Helper()
	var a, b closing
	l := newStepLog(limit)
	stdout, stderr := l.stream(&a), l.stream(&b)
	for i := 0; len(text) > 0; i++ {
		n := min(piece, len(text))
		w := stdout
		if both && i%2 == 1 {
			w = stderr
		}
		if m, err := w.Write([]byte(text[:n])); err != nil || m != n {
			t.Fatalf("%d of %d, %v", m, n, err)
		}
		text = text[n:]
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	return a.String(), b.String()
}

func TestStepLogKeepsHeadAndTail(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "line %03d\n", i) // 9000 bytes
	}
	text := b.String()
	for _, piece := range []int{1, 7, 9, 500, 1 << 20} {
		for _, limit := range []int64{9000, 9001, 100000} {
			if out, _ := printed(t, limit, text, piece, false); out != text {
				t.Errorf("limit %d, pieces of %d: not whole, %d bytes", limit, piece, len(out))
			}
		}
		out, _ := printed(t, 1800, text, piece, false)
		head, rest, _ := strings.Cut(out, "\n[")
		note, tail, _ := strings.Cut(rest, "]\n")
		if head != text[:900] || !strings.HasSuffix(text, tail) || len(tail) < 890 || !strings.HasPrefix(tail, "line ") {
			t.Errorf("pieces of %d: head of %d, tail of %d bytes:\n%.60s", piece, len(head), len(tail), tail)
		}
		if !strings.Contains(note, "left out") || !strings.Contains(note, stepLogSize) {
			t.Errorf("the note says %q", note)
		}
	}
	if out, _ := printed(t, 0, text, 100, false); strings.Contains(out, "line") {
		t.Errorf("a limit of nothing keeps %q", out)
	}
}

func TestStepLogKeepsStreamsApart(t *testing.T) {
	text := strings.Repeat("ooooooooo\neeeeeeeee\n", 500)
	out, errs := printed(t, 2000, text, 10, true)
	if strings.Contains(out, "e\n") || strings.Count(errs, "o") > 20 { // the note has some
		t.Errorf("the streams are mixed:\n%.200s\n--\n%.200s", out, errs)
	}
	if n := strings.Count(out, "ooooooooo\n"); n != 100 && n != 99 {
		t.Errorf("%d lines of the one, %d of the other", n, strings.Count(errs, "e\n"))
	}
}

func BenchmarkStepLog(b *testing.B) {
	line := []byte(strings.Repeat("x", 99) + "\n")
	var sink nowhere
	l := newStepLog(1 << 20)
	w := l.stream(sink)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		_, _ = w.Write(line)
	}
	_ = l.end()
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }
