// Package logrusto sends what libraries log with logrus to log/slog, which is what we log with.
package logrusto

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"

	"github.com/sirupsen/logrus"
)

// Hook passes each entry of a logrus logger on. It is safe for concurrent use when Level is.
type Hook struct {
	Out *slog.Logger
	// Level says how an entry is logged; false leaves it out.
	Level func(*logrus.Entry) (slog.Level, bool)
}

// Levels implements logrus.Hook.
func (Hook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (h Hook) Fire(e *logrus.Entry) error {
	level, ok := h.Level(e)
	if !ok {
		return nil
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		attrs = append(attrs, slog.Any(k, e.Data[k]))
	}
	h.Out.LogAttrs(cmp.Or(e.Context, context.Background()), level, e.Message, attrs...)
	return nil
}

// Install makes the hook all that l does with its entries.
func (h Hook) Install(l *logrus.Logger, level logrus.Level) {
	l.SetOutput(io.Discard)
	l.SetFormatter(noText{}) // nobody reads it
	l.SetLevel(level)
	l.ReplaceHooks(logrus.LevelHooks{})
	l.AddHook(h)
}

type noText struct{}

func (noText) Format(*logrus.Entry) ([]byte, error) { return nil, nil }
