package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gantry-build/gantry/internal/state"
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

type saved struct {
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
	if err := os.MkdirAll(s.o.Root, 0o711); err != nil {
		return fmt.Errorf("making the data root: %w", err)
	}
	unlock, err := state.Lock(filepath.Join(s.o.Root, stateFile+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	marks, err := readMarks(filepath.Join(s.o.Root, stateFile))
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
	data, err := json.MarshalIndent(saved{marks}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", stateFile, err)
	}
	return state.Write(filepath.Join(s.o.Root, stateFile), append(data, '\n'), 0o600)
}

// marks is what this machine and others say of hosts.
func (s *Store) marks() (map[string]mark, error) {
	own, err := readMarks(filepath.Join(s.o.Root, stateFile))
	if err != nil {
		return nil, err
	}
	shared, err := s.sharedMarks()
	for host, m := range shared {
		if _, ok := own[host]; !ok {
			own[host] = m
		}
	}
	return own, err
}

// readMarks reads a registries.json; it is never nil without an error.
func readMarks(path string) (map[string]mark, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]mark{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which registries use plain HTTP: %w", err)
	}
	st := saved{}
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, fmt.Errorf("%s is damaged; correct or remove it: %w", path, err)
	}
	if st.Registries == nil {
		st.Registries = map[string]mark{}
	}
	return st.Registries, nil
}
