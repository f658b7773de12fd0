package stream

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gantry-build/gantry/runner/logs"
)

func TestStreams(t *testing.T) {
	log, err := logs.Open(filepath.Join(t.TempDir(), "log"), logs.Options{MaxFiles: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := New(log)
	s.Emit(Stdout, []byte("before\n"))
	a, cut := s.Attach()
	s.Emit(Stdout, []byte("after\n"))
	s.Emit(Stderr, []byte("unfinished"))
	s.End()
	var got []string
	for {
		c, err := a.Next()
		if err != nil {
			break
		}
		got = append(got, string(c.Data))
	}
	if strings.Join(got, "|") != "after\n|unfinished" {
		t.Errorf("%q", got)
	}
	var logged []string
	err = log.Read(t.Context(), logs.Query{Stdout: true, Stderr: true, Tail: -1, Until: cut}, func(e logs.Entry) error {
		logged = append(logged, e.Log)
		return nil
	})
	if err != nil || strings.Join(logged, "|") != "before\n" {
		t.Errorf("%q %v: log and stream overlap, or have a gap", logged, err)
	}
	logged = nil
	err = log.Read(t.Context(), logs.Query{Stderr: true, Tail: -1}, func(e logs.Entry) error {
		logged = append(logged, e.Log)
		return nil
	})
	if err != nil || strings.Join(logged, "|") != "unfinished" {
		t.Errorf("%q %v", logged, err)
	}
}

// TestSlowClient: a client that does not read holds output back, and no longer when the run is over
// or the client leaves.
func TestSlowClient(t *testing.T) {
	for name, free := range map[string]func(*Streams, *Attachment){
		"leaves":  func(_ *Streams, a *Attachment) { a.Close() },
		"hurried": func(s *Streams, _ *Attachment) { s.Hurry() },
	} {
		t.Run(name, func(t *testing.T) {
			s := New(nil)
			a, _ := s.Attach()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range clientBuffer/1000 + 10 {
					s.Emit(Stdout, make([]byte, 1000))
				}
			}()
			select {
			case <-done:
				t.Fatal("output was not held back")
			case <-time.After(50 * time.Millisecond):
			}
			free(s, a)
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("output is held back for ever")
			}
		})
	}
}

func TestStdin(t *testing.T) {
	s := New(nil)
	a, _ := s.Attach()
	b, _ := s.Attach()
	go func() {
		_, _ = a.Write([]byte("from a"))
		a.CloseInput()
	}()
	if got, err := io.ReadAll(s.input()); string(got) != "from a" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := b.Write([]byte("late")); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	s.End()
	c, _ := s.Attach()
	gone := make(chan error)
	go func() {
		_, err := c.Write([]byte("nobody reads"))
		gone <- err
	}()
	c.Close()
	if err := <-gone; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
