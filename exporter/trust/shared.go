package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/gantry-build/gantry/internal/state"
)

// Entry is what is believed of one registry host.
type Entry struct {
	HTTP bool   `json:",omitempty"` // it speaks plain HTTP
	CA   string `json:",omitempty"` // its authorities, as PEM
}

// Own is what commands on this machine have been told of registries, by their hosts: not what its configuration, its certs.d
// directories or others have, nor what is true of this machine only.
func (s *Store) Own() (map[string]Entry, error) {
	marks, err := readMarks(filepath.Join(s.o.Root, stateFile))
	if err != nil {
		return nil, err
	}
	all := map[string]Entry{}
	for host, m := range marks {
		if !IsLocal(host) {
			all[host] = Entry{HTTP: m.HTTP}
		}
	}
	dirs, err := os.ReadDir(filepath.Join(s.o.Root, certsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range dirs {
		text, err := os.ReadFile(filepath.Join(s.o.Root, certsDir, d.Name(), "ca.crt"))
		if err == nil && !IsLocal(d.Name()) {
			all[d.Name()] = Entry{CA: string(text)}
		}
	}
	return all, nil
}

// IsLocal tells whether a host means another machine on each machine.
func IsLocal(host string) bool {
	local, err := docker.MatchLocalhost(host)
	return err == nil && local
}

// CheckEntry refuses an entry that can't be used, and returns its host as it is named everywhere.
func CheckEntry(host string, e Entry) (string, error) {
	clean, err := cleanHost(host)
	if err != nil {
		return "", err
	}
	if e.HTTP == (e.CA != "") {
		return "", fmt.Errorf("registry %s: either plain HTTP or an authority is to be trusted", clean)
	}
	if e.CA != "" {
		_, err = onlyCerts([]byte(e.CA))
	}
	return clean, err
}

// SetShared makes entries of others count here, instead of those that were set before. Entries that can't be used are left out, and
// returned as an error beside the others.
func (s *Store) SetShared(entries map[string]Entry) error {
	if s.o.Shared == "" {
		return errors.New("nothing is shared here")
	}
	s.sharing.Lock()
	defer s.sharing.Unlock()
	var wrong []error
	marks, certs := map[string]mark{}, map[string]string{}
	for _, host := range slices.Sorted(maps.Keys(entries)) {
		clean, err := CheckEntry(host, entries[host])
		switch {
		case err != nil:
			wrong = append(wrong, err)
		case entries[host].HTTP:
			marks[clean] = mark{HTTP: true}
		default:
			certs[clean] = entries[host].CA
		}
	}
	if err := os.MkdirAll(s.o.Shared, 0o700); err != nil {
		return err
	}
	data, err := json.MarshalIndent(saved{marks}, "", "  ")
	if err != nil {
		return err
	}
	if err := state.Write(filepath.Join(s.o.Shared, stateFile), append(data, '\n'), 0o600); err != nil {
		return err
	}
	dir := filepath.Join(s.o.Shared, certsDir)
	for host, text := range certs {
		if err := state.Private(filepath.Join(dir, host)); err != nil {
			return err
		}
		if err := state.Write(filepath.Join(dir, host, "ca.crt"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	have, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range have {
		if _, keep := certs[d.Name()]; !keep {
			wrong = append(wrong, os.RemoveAll(filepath.Join(dir, d.Name())))
		}
	}
	return errors.Join(wrong...)
}

// sharedMarks are those of others; a host that this machine knows an authority for is not among them.
func (s *Store) sharedMarks() (map[string]mark, error) {
	if s.o.Shared == "" {
		return nil, nil
	}
	marks, err := readMarks(filepath.Join(s.o.Shared, stateFile))
	for host := range marks {
		if _, err := os.Stat(filepath.Join(s.o.Root, certsDir, host, "ca.crt")); err == nil {
			delete(marks, host)
		}
	}
	return marks, err
}
