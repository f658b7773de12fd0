package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	stateFile = "registries.json"
	certsDir  = "certs.d"
)

// mark is what the user said about one host.
type mark struct {
	// HTTP allows, and demands, plain HTTP.
	HTTP bool `json:"http,omitempty"`
}

type state struct {
	Registries map[string]mark `json:"registries"`
}

// AllowHTTP makes gantry speak plain HTTP with host from the next request on,
// also after a restart. It waits for other writers of the file.
func (s *Store) AllowHTTP(host string) error {
	return s.setHTTP(host, true)
}

func (s *Store) setHTTP(name string, http bool) error {
	host, err := cleanHost(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.o.Root, 0o755); err != nil {
		return fmt.Errorf("making the data root: %w", err)
	}
	unlock, err := lock(filepath.Join(s.o.Root, stateFile+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	marks, err := s.marks()
	if err != nil {
		return err
	}
	if marks[host].HTTP == http {
		return nil
	}
	if http {
		marks[host] = mark{HTTP: true}
	} else {
		delete(marks, host)
	}
	data, err := json.MarshalIndent(state{marks}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", stateFile, err)
	}
	return write(filepath.Join(s.o.Root, stateFile), append(data, '\n'))
}

// marks reads registries.json; it is never nil without an error.
func (s *Store) marks() (map[string]mark, error) {
	path := filepath.Join(s.o.Root, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]mark{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which registries use plain HTTP: %w", err)
	}
	st := state{}
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, fmt.Errorf("%s is damaged; correct or remove it: %w", path, err)
	}
	if st.Registries == nil {
		st.Registries = map[string]mark{}
	}
	return st.Registries, nil
}

// write replaces a file so that a reader sees the old or the new content:
// temporary file, fsync, rename, fsync of the directory.
func write(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// lock excludes other writers, in this process and in others; the kernel
// drops the lock of one that dies.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, errors.Join(err, f.Close()))
	}
	return func() { f.Close() }, nil
}
