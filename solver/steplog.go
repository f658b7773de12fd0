package solver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
)

// A step's log is kept whole up to a limit. Of a longer one the head and the tail are, half of the limit
// each: the line that tells why a step failed is the last one, and BuildKit's own limit, 2 MiB and
// 200 KiB/s, keeps the head only (util/progress/logs, v0.34.2). The same variables set it; -1 is no limit.
const (
	stepLogSize        = "BUILDKIT_STEP_LOG_MAX_SIZE"
	stepLogSpeed       = "BUILDKIT_STEP_LOG_MAX_SPEED"
	defaultStepLogSize = 256 << 20
)

// ownStepLogs takes the limit of a step's log, in bytes, from BuildKit.
var ownStepLogs = sync.OnceValues(func() (limit int64, err error) {
	limit = defaultStepLogSize
	if v, ok := os.LookupEnv(stepLogSize); ok {
		if limit, err = strconv.ParseInt(v, 10, 64); err != nil {
			return 0, fmt.Errorf("%s=%s is no number of bytes; -1 is no limit", stepLogSize, v)
		}
	}
	if err := os.Setenv(stepLogSize, "-1"); err != nil {
		return 0, err
	}
	if _, ok := os.LookupEnv(stepLogSpeed); !ok {
		err = os.Setenv(stepLogSpeed, "-1")
	}
	return limit, err
})

// logged is an executor whose steps' logs are limited.
type logged struct {
	executor.Executor
	limit int64
}

func (l logged) Run(
	ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{},
) (resourcestypes.Recorder, error) {
	if l.limit < 0 {
		return l.Executor.Run(ctx, id, root, mounts, process, started)
	}
	log := newStepLog(l.limit)
	out, errs := process.Stdout, process.Stderr
	if out != nil {
		process.Stdout = log.stream(out)
	}
	if errs != nil {
		process.Stderr = log.stream(errs)
	}
	rec, err := l.Executor.Run(ctx, id, root, mounts, process, started)
	if lerr := log.end(); lerr != nil && err == nil {
		err = fmt.Errorf("the end of the step's log: %w", lerr)
	}
	return rec, err
}

// stepLog passes on what a step prints until half of the limit is spent. What follows goes round in a
// file, and its end is passed on when the step has ended.
type stepLog struct {
	mu   sync.Mutex
	half int64
	room int64 // what is still passed on
	tail *os.File
	pos  int64 // bytes written to tail in all; one at position p is at p modulo half
	runs []run // of tail, the oldest first
	err  error
}

// run is a piece of the log that one stream has printed.
type run struct {
	to  io.Writer
	end int64 // position after it
}

// mostRuns bounds the memory for a log that goes from one stream to the other all the time; beyond it
// the order of the two is lost.
const mostRuns = 1 << 16

func newStepLog(limit int64) *stepLog { return &stepLog{half: limit / 2, room: limit - limit/2} }

// stream is one of a step's two outputs.
func (l *stepLog) stream(w io.WriteCloser) io.WriteCloser { return &logStream{WriteCloser: w, log: l} }

type logStream struct {
	io.WriteCloser
	log *stepLog
}

func (s *logStream) Write(p []byte) (int, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.write(s.WriteCloser, p)
}

func (l *stepLog) write(to io.Writer, p []byte) (n int, err error) {
	if l.room > 0 {
		n = int(min(l.room, int64(len(p))))
		l.room -= int64(n)
		if n, err = to.Write(p[:n]); err != nil || n == len(p) {
			return n, err
		}
	}
	if l.err == nil {
		l.err = l.hold(to, p[n:])
	}
	return len(p), nil // a step does not fail as its log can't be kept; the log says so
}

// hold keeps p in the file.
func (l *stepLog) hold(to io.Writer, p []byte) (err error) {
	if l.half == 0 {
		l.pos += int64(len(p))
		return nil
	}
	if l.tail == nil {
		if l.tail, err = os.CreateTemp("", "step-log-"); err != nil {
			return err
		}
		_ = os.Remove(l.tail.Name())
	}
	for rest := p; len(rest) > 0; {
		at := l.pos % l.half
		n := min(int64(len(rest)), l.half-at)
		if _, err := l.tail.WriteAt(rest[:n], at); err != nil {
			return err
		}
		l.pos += n
		rest = rest[n:]
	}
	if last := len(l.runs) - 1; last >= 0 && (l.runs[last].to == to || last >= mostRuns) {
		l.runs[last].end = l.pos
	} else {
		l.runs = append(l.runs, run{to, l.pos})
	}
	for len(l.runs) > 1 && l.runs[0].end <= l.pos-l.half {
		l.runs = l.runs[1:]
	}
	return nil
}

// end passes on the tail, after a line that says what is missing before it.
func (l *stepLog) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tail != nil {
		defer l.tail.Close()
	}
	if l.err != nil || len(l.runs) == 0 {
		return l.err
	}
	begin := max(0, l.pos-l.half)
	if begin > 0 {
		begin = l.nextLine(begin)
		_, err := fmt.Fprintf(l.runs[0].to, "\n[%s of output are left out here; %s is the limit of a step's log, and %s of the daemon's "+
			"environment another]\n",
			units.BytesSize(float64(begin)), units.BytesSize(float64(2*l.half)), stepLogSize)
		if err != nil {
			return err
		}
	}
	for _, r := range l.runs {
		if r.end <= begin {
			continue
		}
		if err := l.copyTo(r.to, begin, r.end); err != nil {
			return err
		}
		begin = r.end
	}
	return nil
}

// nextLine is the position of the first line that begins at or after a position, or that position where
// none begins soon.
func (l *stepLog) nextLine(from int64) int64 {
	b := make([]byte, min(64<<10, l.pos-from))
	if _, err := l.at(from).Read(b); err == nil {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			return from + int64(i) + 1
		}
	}
	return from
}

// at reads the file from a position to the end of its round.
func (l *stepLog) at(pos int64) io.Reader {
	return io.NewSectionReader(l.tail, pos%l.half, l.half-pos%l.half)
}

func (l *stepLog) copyTo(w io.Writer, begin, end int64) error {
	for begin < end {
		n, err := io.CopyN(w, l.at(begin), min(end-begin, l.half-begin%l.half))
		if begin += n; err != nil {
			return errors.Join(err, l.err)
		}
	}
	return nil
}
