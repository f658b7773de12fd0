// Package logs keeps what a container prints, in Docker's json-file format: one JSON object a line,
// {"log","stream","time"}, in files that rotate by size. Writers never wait for readers; readers
// follow across rotations. It may pass lines on, to journald or syslog, and keeps them all the same, so that they can
// be read. What it refuses: log options that it would have to ignore.
package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Entry is one line, or a piece of a line longer than 16 KiB (which then has no newline).
type Entry struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`

	Attrs map[string]string `json:"attrs,omitempty"` // what the options labels, env and tag ask for
}

// Log is one container's log. Safe for concurrent use.
type Log struct {
	path string
	opts Options

	mu      sync.Mutex
	file    *os.File
	size    int64
	changed chan struct{} // closed, and replaced, by each write

	packing sync.WaitGroup // of a file that was rotated
	queue   *queue         // nil: whoever writes waits for the disk
}

// Open opens the log at path for appending and reading, making it if needed. An empty path makes a
// log that keeps nothing.
func Open(path string, o Options) (*Log, error) {
	l := &Log{path: path, opts: o, changed: make(chan struct{})}
	if path != "" {
		if err := l.open(); err != nil {
			return nil, fmt.Errorf("container log: %w", err)
		}
	}
	if o.NonBlocking {
		l.queue = newQueue(o.Buffer, l.write)
	}
	return l, nil
}

// Check tells whether lines can be passed on, before a container starts: errdefs.ErrUnavailable when not.
func (l *Log) Check() error {
	if l.opts.Forward == nil {
		return nil
	}
	return l.opts.Forward.Check()
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

func (l *Log) append(e Entry) {
	e.Attrs = l.opts.Attrs
	if l.queue != nil {
		l.queue.add(e)
		return
	}
	l.write(e)
}

// write keeps a line, and passes it on. Neither a full disk nor a server that is gone may end the container.
func (l *Log) write(e Entry) {
	_ = l.keep(e)
	if l.opts.Forward != nil {
		_ = l.opts.Forward.Send(e)
	}
}

func (l *Log) keep(e Entry) error {
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
	l.packing.Wait() // of the one before
	for i := l.opts.MaxFiles - 1; i >= 1; i-- {
		for _, ext := range []string{"", packedExt} {
			if err := os.Rename(l.name(i-1)+ext, l.name(i)+ext); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	if l.opts.Compress && l.opts.MaxFiles > 1 {
		l.packing.Go(func() { _ = pack(l.name(1)) }) // else it stays as it is
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
	if l.queue != nil {
		l.queue.close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.packing.Wait()
	var err error
	if l.opts.Forward != nil {
		err = l.opts.Forward.Close()
	}
	if l.file == nil {
		return err
	}
	err = errors.Join(err, l.file.Close())
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
		for _, ext := range []string{"", packedExt} {
			if e := os.Remove(l.name(i) + ext); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}
