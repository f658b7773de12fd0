package tree

import (
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
)

// Selection is the part of a tree that a build reads, in the patterns of BuildKit's local source.
type Selection struct {
	Include []string // patterns of which one must match; none is all
	Exclude []string // .dockerignore's patterns
	Follow  []string // paths that count with what their symbolic links lead to
}

// Open returns the selected part of the directory at root. Symbolic links are followed now, files are read
// when they are asked for.
func (s Selection) Open(root string) (fsutil.FS, error) {
	all, err := fsutil.NewFS(root)
	if err != nil {
		return nil, err
	}
	return fsutil.NewFilterFS(all, &fsutil.FilterOpt{IncludePatterns: s.Include, ExcludePatterns: s.Exclude, FollowPaths: s.Follow})
}

// ignore is what the exclude patterns leave out of a walk. Its nil value leaves out nothing.
type ignore struct {
	matcher    *patternmatcher.PatternMatcher
	exceptions bool // below an ignored directory there may be files that are not
}

// newIgnore is nil without patterns. Those that do not parse leave out nothing either: the build that reads
// the directory refuses them.
func newIgnore(patterns []string) *ignore {
	if len(patterns) == 0 {
		return nil
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil
	}
	return &ignore{m, m.Exclusions()}
}

// skips tells whether a file or directory is left out; above is what its own directory was told. A directory
// that is skipped is not entered: one that may hold exceptions is not skipped.
func (i *ignore) skips(path string, isDir bool, above patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo) {
	if i == nil {
		return false, above
	}
	skip, own, err := i.matcher.MatchesUsingParentResults(strings.TrimPrefix(path, "/"), above)
	return err == nil && skip && !(isDir && i.exceptions), own
}
