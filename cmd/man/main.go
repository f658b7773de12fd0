// Command man writes the manual pages of gantry's commands, and the completions of three shells, below a directory: man1/*.1, bash,
// zsh and fish.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra/doc"

	"github.com/gantry-build/gantry/cmd/command"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: man DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	pages := filepath.Join(dir, "man1")
	if err := os.MkdirAll(pages, 0o755); err != nil {
		return err
	}
	root := command.Root()
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true // the same input gives the same bytes
	made := time.Unix(0, 0).UTC()
	header := &doc.GenManHeader{Section: "1", Source: "gantry", Manual: "gantry's commands", Date: &made}
	return errors.Join(
		doc.GenManTree(root, header, pages),
		root.GenBashCompletionFileV2(filepath.Join(dir, "bash"), true),
		root.GenZshCompletionFile(filepath.Join(dir, "zsh")),
		root.GenFishCompletionFile(filepath.Join(dir, "fish"), true),
	)
}
