package logs

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// Files that are compressed when they are rotated are read as the others are, also by who follows.
func TestPackedFilesAreRead(t *testing.T) {
	l := open(t, Options{MaxSize: 400, MaxFiles: 20, Compress: true})
	w := l.Writer("stdout")
	var want []string
	for i := range 60 {
		fmt.Fprintln(w, "line", i)
		want = append(want, fmt.Sprintf("line %d\n", i))
	}
	l.packing.Wait()
	if _, err := os.Stat(l.name(1) + packedExt); err != nil {
		t.Fatalf("nothing was compressed: %v", err)
	}
	if got := read(t, l, Query{Tail: -1}); strings.Join(got, "") != strings.Join(want, "") {
		t.Errorf("all: %q", got)
	}
	if got := read(t, l, Query{Tail: 30}); strings.Join(got, "") != strings.Join(want[30:], "") {
		t.Errorf("the last 30: %q", got)
	}
}

// A log that takes no more does not hold the container up; what waits is written in order.
func TestNonBlocking(t *testing.T) {
	l := open(t, Options{})
	gate, entered := make(chan struct{}), make(chan struct{}, 1)
	l.queue = newQueue(100, func(e Entry) {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-gate
		l.write(e)
	})
	w := l.Writer("stdout")
	fmt.Fprintln(w, "first")
	<-entered
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 {
			fmt.Fprintln(w, strings.Repeat("x", 19))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the writer waits for the log")
	}
	close(gate)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, l, Query{Tail: -1}); len(got) != 6 || got[0] != "first\n" {
		t.Errorf("%d lines: %q", len(got), got)
	}
}

// Lines reach a syslog server in its format, and are kept here.
func TestSyslog(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	lines := make(chan string, 10)
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			for s := bufio.NewScanner(c); s.Scan(); {
				lines <- s.Text()
			}
		}
	}()
	o, err := ParseOptions("syslog", map[string]string{
		"syslog-address": "tcp://" + server.Addr().String(), "syslog-facility": "local1", "syslog-format": "rfc5424", "tag": "{{.Name}}",
	}, Source{ID: "0123456789abcdef", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, o)
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l.Writer("stdout"), "hello")
	fmt.Fprintln(l.Writer("stderr"), "trouble")
	for _, want := range []struct{ priority, text string }{{"<142>1 ", " web - hello"}, {"<139>1 ", " web - trouble"}} {
		select {
		case got := <-lines:
			if !strings.HasPrefix(got, want.priority) || !strings.HasSuffix(got, want.text) {
				t.Errorf("%q, want %q ... %q", got, want.priority, want.text)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%q did not come", want.text)
		}
	}
	if got := read(t, l, Query{Tail: -1, Stdout: true, Stderr: true}); strings.Join(got, "") != "hello\ntrouble\n" {
		t.Errorf("kept: %q", got)
	}
}

// A server that is not there keeps a container from starting, and no one else.
func TestSyslogWithoutServer(t *testing.T) {
	o, err := ParseOptions("syslog", map[string]string{"syslog-address": "tcp://127.0.0.1:1"}, Source{ID: "0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, o)
	if err := l.Check(); err == nil || !strings.Contains(err.Error(), "failed to initialize logging driver") {
		t.Errorf("%v", err)
	}
	fmt.Fprintln(l.Writer("stdout"), "hello")
	if got := read(t, l, Query{Tail: -1}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}
