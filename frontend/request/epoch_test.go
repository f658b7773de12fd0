package request

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gantry-build/gantry/internal/need"
)

// repository makes one with a signed commit of a given time, and returns how to run git in it.
func repository(t *testing.T) (dir string, git func(stdin string, args ...string) string) {
	t.Helper()
	need.Tool(t, "git")
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir = t.TempDir()
	git = func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("", "init", "-q")
	tree := git("", "mktree")
	commit := git("tree "+tree+"\nauthor A <a@b> 1000000001 +0000\ncommitter A B <a@b> 1000000002 +0130\n"+
		"gpgsig -----BEGIN PGP SIGNATURE-----\n \n AA==\n -----END PGP SIGNATURE-----\n\nsubject\n\ncommitter x 3 +0000\n",
		"hash-object", "-t", "commit", "-w", "--stdin")
	git("", "update-ref", "HEAD", commit)
	return dir, git
}

// Another user's repository tells its time and runs nothing.
func TestSourceDateRunsNothingOfTheRepository(t *testing.T) {
	dir, git := repository(t)
	marker := filepath.Join(t.TempDir(), "ran")
	evil := filepath.Join(dir, "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+marker+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"log.showSignature": "true", "gpg.program": evil, "core.pager": evil, "core.fsmonitor": evil, "core.hooksPath": dir,
		"core.sshCommand": evil, "diff.external": evil, "core.repositoryFormatVersion": "1",
		"extensions.partialClone": "evil", "remote.evil.promisor": "true", "remote.evil.url": "ext::" + evil,
		"protocol.ext.allow": "always",
	} {
		git("", "config", k, v)
	}
	if os.Getuid() == 0 {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, 65534, 65534)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := SourceDate(t.Context(), dir); err != nil || got != "1000000002" {
		t.Errorf("%q, %v", got, err)
	}
	// A commit that is not there would be fetched.
	if err := os.WriteFile(filepath.Join(dir, ".git", "HEAD"), []byte(strings.Repeat("1", 40)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := SourceDate(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("without the commit: %q, %v", got, err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("a program of the repository's configuration ran")
	}
}

func TestSourceDateOfTheEnvironment(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "42")
	if got, err := SourceDate(t.Context(), t.TempDir()); err != nil || got != "42" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := SourceDate(t.Context(), t.TempDir()); err == nil {
		t.Error("no error")
	}
}
