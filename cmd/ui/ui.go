// Package ui is the law of output: stdout has what a script composes (digests, ids, tables), stderr
// has progress and messages, which begin with "gantry:", in lower case, without a full stop.
package ui

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
)

// Error prints err on w.
func Error(w io.Writer, err error) {
	fmt.Fprintln(w, "gantry: "+printable(tidy(strings.TrimSpace(err.Error()))))
}

// printable keeps bytes of a user's file, which a message may quote, from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// noise is what the layers between a user and a failing step add to its message.
var noise = regexp.MustCompile(`^(\S+:\d+: )?((` + strings.Join([]string{
	`failed to build`, `failed to solve`, `failed to solve with frontend \S+`, `failed to compute cache key`,
	`failed to calculate checksum of ref \S+`, `rpc error: code = \w+ desc =`, `dockerfile parse error on line \d+`,
}, "|") + `): ?)+`)

// mounted is what the Docker CLI adds to a message of ours.
var mounted = regexp.MustCompile(`^(docker: )?(Error response from daemon: )?`)

func tidy(msg string) string {
	msg, _, _ = strings.Cut(msg, "\n\nRun 'docker ")
	return noise.ReplaceAllString(mounted.ReplaceAllString(msg, ""), "$1")
}
