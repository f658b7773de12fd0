package api

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/moby/moby/api/types"

	"github.com/gantry-build/gantry/internal/fault"
	"github.com/gantry-build/gantry/runner/logs"
)

// nanoTime is RFC 3339 with all nine digits, so that timestamps are of one width.
const nanoTime = "2006-01-02T15:04:05.000000000Z07:00"

// logs streams a container's log, framed unless the container has a terminal.
func (c *containersAPI) logs(w http.ResponseWriter, r *http.Request) error {
	rec, err := c.m.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	q, err := logQuery(r)
	if err != nil {
		return err
	}
	out := &logStream{w: w, tty: rec.Config.Tty, timestamps: flag(r, "timestamps"), details: flag(r, "details")}
	if q.Follow {
		out.begin() // also a silent container's client wants its headers
	}
	err = c.m.Logs(r.Context(), rec.ID, q, out.send)
	if err == nil && !out.begun {
		out.begin()
	}
	if r.Context().Err() != nil || errors.Is(err, errClientGone) {
		return nil
	}
	return err
}

func logQuery(r *http.Request) (q logs.Query, err error) {
	q.Stdout, q.Stderr, q.Follow, q.Tail = flag(r, "stdout"), flag(r, "stderr"), flag(r, "follow"), -1
	if !q.Stdout && !q.Stderr {
		return q, fault.Invalid("Bad parameters: you must choose at least one stream")
	}
	if q.Since, err = timeOf(r, "since"); err != nil {
		return q, err
	}
	if q.Until, err = timeOf(r, "until"); err != nil {
		return q, err
	}
	if v := r.URL.Query().Get("tail"); v != "" && v != "all" {
		q.Tail, err = intOf(r, "tail", -1)
	}
	return q, err
}

var errClientGone = errors.New("the client has gone")

type logStream struct {
	w               http.ResponseWriter
	tty, timestamps bool
	details         bool
	begun           bool
}

func (s *logStream) begin() {
	s.begun = true
	media := types.MediaTypeMultiplexedStream
	if s.tty {
		media = types.MediaTypeRawStream
	}
	s.w.Header().Set("Content-Type", media)
	s.w.WriteHeader(http.StatusOK)
	s.flush()
}

func (s *logStream) flush() {
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

// details are what the driver's options have it note with each line.
func details(attrs map[string]string) string {
	pairs := make([]string, 0, len(attrs))
	for k, v := range attrs {
		pairs = append(pairs, url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func (s *logStream) send(e logs.Entry) error {
	if !s.begun {
		s.begin()
	}
	line := e.Log
	if s.details {
		line = details(e.Attrs) + " " + line
	}
	if s.timestamps {
		line = e.Time.UTC().Format(nanoTime) + " " + line
	}
	var err error
	if s.tty {
		_, err = s.w.Write([]byte(line))
	} else {
		err = (&mux{s.w}).send(streamOf(e), []byte(line))
	}
	if err != nil {
		return errClientGone
	}
	s.flush()
	return nil
}
