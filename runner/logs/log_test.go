package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func read(t *testing.T, l *Log, q Query) []string {
	t.Helper()
	q.Stdout, q.Stderr = true, true
	var got []string
	if err := l.Read(t.Context(), q, func(e Entry) error { got = append(got, e.Log); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func open(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(filepath.Join(t.TempDir(), "c-json.log"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLines(t *testing.T) {
	l := open(t, Options{MaxFiles: 1})
	w := l.Writer("stdout")
	fmt.Fprint(w, "one\ntw")
	fmt.Fprint(w, "o\n\nthree")
	if got := read(t, l, Query{Tail: -1}); strings.Join(got, "|") != "one\n|two\n|\n" {
		t.Errorf("before the stream ends: %q", got)
	}
	w.Close()
	if got := read(t, l, Query{Tail: 2}); strings.Join(got, "|") != "\n|three" {
		t.Errorf("last two: %q", got)
	}
}

func TestLongLinesAreCut(t *testing.T) {
	l := open(t, Options{})
	w := l.Writer("stderr")
	fmt.Fprint(w, strings.Repeat("x", maxLine+10), "\n")
	got := read(t, l, Query{Tail: -1})
	if len(got) != 2 || len(got[0]) != maxLine || got[1] != strings.Repeat("x", 10)+"\n" {
		t.Errorf("%d pieces", len(got))
	}
}

func TestTailOverRotatedFiles(t *testing.T) {
	l := open(t, Options{MaxSize: 300, MaxFiles: 3})
	w := l.Writer("stdout")
	for i := range 12 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	all := read(t, l, Query{Tail: -1})
	if len(all) < 6 || all[len(all)-1] != "line 11\n" {
		t.Fatalf("kept %q", all)
	}
	for n := range len(all) + 2 {
		got := read(t, l, Query{Tail: n})
		if want := all[len(all)-min(n, len(all)):]; strings.Join(got, "") != strings.Join(want, "") {
			t.Errorf("tail %d: %q, want %q", n, got, want)
		}
	}
}

func TestFollowOverRotation(t *testing.T) {
	for _, files := range []int{1, 2, 4} {
		l := open(t, Options{MaxSize: 1 << 20, MaxFiles: files})
		w := l.Writer("stdout")
		fmt.Fprintln(w, "0")
		done, seen := make(chan struct{}), make(chan string)
		result := make(chan error, 1)
		go func() {
			result <- l.Read(t.Context(), Query{Stdout: true, Tail: -1, Follow: true, Done: done}, func(e Entry) error {
				seen <- e.Log
				return nil
			})
		}()
		for i := range 5 {
			if got := <-seen; got != fmt.Sprintln(i) {
				t.Fatalf("files %d: got %q, want %d", files, got, i)
			}
			l.mu.Lock()
			if err := l.rotate(); err != nil {
				t.Fatal(err)
			}
			l.mu.Unlock()
			fmt.Fprintln(w, i+1)
		}
		close(done)
		if got := <-seen; got != "5\n" {
			t.Errorf("what is there when the container ends is lost: %q", got)
		}
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	l := open(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := l.Read(ctx, Query{Tail: -1, Follow: true}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestBoundsAndTornLines(t *testing.T) {
	l := open(t, Options{})
	base := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 5 {
		l.append(Entry{Log: fmt.Sprint(i), Stream: "stdout", Time: base.Add(time.Duration(i) * time.Second)})
	}
	if _, err := l.file.WriteString(`{"log":"torn`); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	l.append(Entry{Log: "after", Stream: "stdout", Time: base.Add(time.Hour)})
	got := read(t, l, Query{Tail: -1, Since: base.Add(time.Second), Until: base.Add(3 * time.Second)})
	if strings.Join(got, "") != "123" {
		t.Errorf("bounds: %q", got)
	}
	if got := read(t, l, Query{Tail: 1}); strings.Join(got, "") != "after" {
		t.Errorf("after a torn line: %q", got)
	}
}

func TestOptions(t *testing.T) {
	of := Source{ID: "0123456789abcdef", Name: "web", Labels: map[string]string{"tier": "front", "x": ""}, Env: []string{"A=1", "B=2"}}
	o, err := ParseOptions("", map[string]string{"max-size": "10m", "max-file": "3"}, of)
	if err != nil || o.MaxSize != 10e6 || o.MaxFiles != 3 || o.NonBlocking || o.Attrs != nil {
		t.Errorf("%+v %v", o, err)
	}
	o, err = ParseOptions("json-file",
		map[string]string{"mode": "non-blocking", "max-buffer-size": "4k", "labels": "tier", "env-regex": "^A",
			"tag": "{{.Name}}/{{.ID}}"}, of)
	want := map[string]string{"tier": "front", "A": "1", "tag": "web/0123456789ab"}
	if err != nil || !o.NonBlocking || o.Buffer != 4096 || !maps.Equal(o.Attrs, want) {
		t.Errorf("%+v %v", o, err)
	}
	if o, err = ParseOptions("local", nil, of); err != nil || o.MaxSize != 20<<20 || o.MaxFiles != 5 || !o.Compress {
		t.Errorf("%+v %v", o, err)
	}
	for _, bad := range []map[string]string{
		{"tags": "x"}, {"max-size": "x"}, {"max-file": "0"}, {"max-file": "2"}, {"mode": "sometimes"}, {"max-buffer-size": "1m"},
		{"tag": "{{.Nothing"}, {"env-regex": "("}, {"compress": "true"}, {"syslog-address": "udp://x"},
	} {
		if _, err := ParseOptions("json-file", bad, of); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	for _, bad := range []map[string]string{{"syslog-address": "ftp://x"}, {"syslog-facility": "local9"}, {"syslog-format": "x"}} {
		if _, err := ParseOptions("syslog", bad, of); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestNone(t *testing.T) {
	l, err := Open("", Options{})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l.Writer("stdout"), "dropped")
	if err := l.Read(t.Context(), Query{}, nil); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	l := open(t, Options{MaxSize: 60, MaxFiles: 3})
	for range 3 {
		fmt.Fprintln(l.Writer("stdout"), "x")
	}
	if err := l.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(l.path)); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// A line that is cut into pieces is cut between characters; a piece that goes on has no newline. What is no
// text at all is cut all the same.
func TestLongLinesKeepCharacters(t *testing.T) {
	for name, text := range map[string]string{
		"two bytes": "x" + strings.Repeat("ä", 20000), "three": "xx" + strings.Repeat("€", 20000), "four": strings.Repeat("𝄞", 9000) + "x",
		"ASCII": strings.Repeat("a", 50000),
	} {
		for _, step := range []int{1, 7, maxLine - 1, maxLine, maxLine + 1, len(text)} {
			l := open(t, Options{})
			w := l.Writer("stdout")
			for rest := text + "\n"; len(rest) > 0; {
				n := min(step, len(rest))
				_, _ = w.Write([]byte(rest[:n]))
				rest = rest[n:]
			}
			pieces := read(t, l, Query{Tail: -1})
			if got := strings.Join(pieces, ""); got != text+"\n" {
				t.Errorf("%s, %d bytes at a time: %d bytes came back, of %d; U+FFFD is in it: %v",
					name, step, len(got), len(text)+1, strings.Contains(got, "\ufffd"))
			}
			for i, p := range pieces {
				if len(p) > maxLine || strings.HasSuffix(p, "\n") != (i == len(pieces)-1) {
					t.Errorf("%s: piece %d of %d has %d bytes and ends in %q", name, i, len(pieces), len(p), p[len(p)-1:])
				}
			}
		}
	}
	l := open(t, Options{})
	if _, err := l.Writer("stdout").Write(bytes.Repeat([]byte{0xe2, 0x82}, maxLine)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, l, Query{Tail: -1}); len(got) < 2 {
		t.Errorf("%d pieces", len(got))
	}
}
