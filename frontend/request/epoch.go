package request

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// SourceDate is the time that everything in a reproducible build of dir has, in seconds since 1970:
// SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/), or else that of the commit
// that is checked out.
func SourceDate(ctx context.Context, dir string) (string, error) {
	if v := os.Getenv("SOURCE_DATE_EPOCH"); v != "" {
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return "", fmt.Errorf("SOURCE_DATE_EPOCH=%s is not a number of seconds", v)
		}
		return v, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	seconds, err := commitTime(ctx, abs)
	if err != nil {
		return "", fmt.Errorf("--reproducible: %s has no git commit to take the time from; "+
			"set SOURCE_DATE_EPOCH to the seconds since 1970 (%w)", dir, err)
	}
	return seconds, nil
}

// commitTime is when the commit that is checked out was made. The repository may be another user's, whose
// configuration must not run anything here: cat-file, unlike log, starts no program of the configuration
// (gpg.program, core.pager), reads no index (core.fsmonitor), and may fetch nothing that is missing
// (a remote's ext:: address).
func commitTime(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "cat-file", "commit", "HEAD")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=", "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("git: %s: %w", first, err)
	}
	head, _, _ := strings.Cut(string(out), "\n\n")
	for line := range strings.Lines(head) {
		if who, ok := strings.CutPrefix(line, "committer "); ok {
			if f := strings.Fields(who); len(f) >= 2 {
				if _, err := strconv.ParseInt(f[len(f)-2], 10, 64); err == nil {
					return f[len(f)-2], nil
				}
			}
		}
	}
	return "", fmt.Errorf("git: the commit names no time")
}
