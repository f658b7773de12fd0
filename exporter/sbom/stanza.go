package sbom

import (
	"bufio"
	"errors"
	"io"
	"strings"
)

// stanza is one paragraph of "Key: value" lines. Keys are lower case; the first of two equal keys
// counts.
type stanza map[string]string

// stanzas calls yield for each paragraph of r, with the fields in want. See deb-control(5); Python's
// core metadata and Java's manifests are of the same shape. Lines after the first of a folded field
// are joined with newlines.
func stanzas(r io.Reader, want string, yield func(stanza) bool) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64*kib), int(4*mib))
	cur, last := stanza{}, ""
	for sc.Scan() {
		line := strings.TrimSuffix(sc.Text(), "\r")
		switch {
		case strings.TrimSpace(line) == "":
			if len(cur) > 0 && !yield(cur) {
				return nil
			}
			cur, last = stanza{}, ""
		case line[0] == ' ' || line[0] == '\t':
			if last != "" && len(cur[last]) < 4096 {
				cur[last] += "\n" + line[1:]
			}
		default:
			last = cur.set(line, want)
		}
	}
	if len(cur) > 0 {
		yield(cur)
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return errors.New("a line of more than 4 MiB: what follows it is not read")
	}
	return sc.Err()
}

// set keeps a field if it is wanted, and returns its key.
func (s stanza) set(line, want string) string {
	key, value, ok := strings.Cut(line, ":")
	key = strings.ToLower(key)
	if !ok || key == "" || !strings.Contains(want, " "+key+" ") {
		return ""
	}
	if _, twice := s[key]; twice {
		return ""
	}
	s[key] = strings.Clone(strings.TrimSpace(value))
	return key
}

// lines calls do for each line of r.
func lines(r io.Reader, do func(string)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64*kib), int(4*mib))
	for sc.Scan() {
		do(strings.TrimSuffix(sc.Text(), "\r"))
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return errors.New("a line of more than 4 MiB: what follows it is not read")
	}
	return sc.Err()
}
