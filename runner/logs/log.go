// Package logs keeps what a container prints, in Docker's json-file format: one JSON object a line,
// {"log","stream","time"}, in files that rotate by size. Writers never wait for readers; readers
// follow across rotations. What it refuses: log options that it would have to ignore.
package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// Entry is one line, or a piece of a line longer than 16 KiB (which then has no newline).
type Entry struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// Options limit the size of a log.
type Options struct {
	MaxSize  int64 // bytes of one file; 0 is no limit
	MaxFiles int   // files kept, at least 1
}

// ParseOptions reads the json-file driver's options max-size and max-file. Others are an
// errdefs.ErrInvalidArgument.
func ParseOptions(config map[string]string) (Options, error) {
	o := Options{MaxFiles: 1}
	for k, v := range config {
		var err error
		switch k {
		case "max-size":
			if v != "-1" {
				o.MaxSize, err = units.FromHumanSize(v)
			}
		case "max-file":
			o.MaxFiles, err = strconv.Atoi(v)
			if err == nil && o.MaxFiles < 1 {
				err = errors.New("it must be at least 1")
			}
		default:
			return o, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("log option %q is not supported: use max-size and max-file", k))
		}
		if err != nil {
			return o, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("log option %s=%s: %v", k, v, err))
		}
	}
	if o.MaxFiles > 1 && o.MaxSize == 0 {
		return o, errdefs.ErrInvalidArgument.WithMessage("log option max-file needs max-size")
	}
	return o, nil
}

// Log is one container's log. Safe for concurrent use.
type Log struct {
	path string
	opts Options

	mu      sync.Mutex
	file    *os.File
	size    int64
	changed chan struct{} // closed, and replaced, by each write
}

// Open opens the log at path for appending and reading, making it if needed. An empty path makes a
// log that keeps nothing.
func Open(path string, o Options) (*Log, error) {
	l := &Log{path: path, opts: o, changed: make(chan struct{})}
	if path == "" {
		return l, nil
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("container log: %w", err)
	}
	return l, nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, st.Size()
	var last [1]byte
	if n, _ := f.ReadAt(last[:], l.size-1); n == 1 && last[0] != '\n' { // a daemon died in mid-line
		n, err := f.WriteString("\n")
		l.size += int64(n)
		return err
	}
	return nil
}

func (l *Log) append(e Entry) error {
	if l.path == "" {
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return os.ErrClosed
	}
	if l.opts.MaxSize > 0 && l.size > 0 && l.size+int64(len(line)) >= l.opts.MaxSize {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(append(line, '\n'))
	l.size += int64(n)
	close(l.changed)
	l.changed = make(chan struct{})
	return err
}

// rotate renames the files one up and starts a new one; the oldest goes.
func (l *Log) rotate() error {
	for i := l.opts.MaxFiles - 1; i >= 1; i-- {
		if err := os.Rename(l.name(i-1), l.name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if l.opts.MaxFiles <= 1 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	l.file.Close()
	return l.open()
}

// name is the i-th newest file.
func (l *Log) name(i int) string {
	if i == 0 {
		return l.path
	}
	return fmt.Sprintf("%s.%d", l.path, i)
}

// watch returns a channel that is closed by the next write.
func (l *Log) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Close closes the file. Later writes are dropped; reading goes on working.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Remove deletes all files of the log.
func (l *Log) Remove() error {
	err := l.Close()
	if l.path == "" {
		return err
	}
	for i := range max(l.opts.MaxFiles, 1) {
		if e := os.Remove(l.name(i)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
