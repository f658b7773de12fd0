package command

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// routeLogrus sends what containerd and BuildKit log to log. Their standard logger is a global of
// the libraries' own.
func routeLogrus(log *slog.Logger, debug bool) {
	l := logrus.StandardLogger()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.InfoLevel)
	if debug {
		l.SetLevel(logrus.DebugLevel)
	}
	l.ReplaceHooks(logrus.LevelHooks{})
	l.AddHook(toSlog{log})
}

type toSlog struct{ log *slog.Logger }

func (toSlog) Levels() []logrus.Level { return logrus.AllLevels }

func (t toSlog) Fire(e *logrus.Entry) error {
	if cosmetic(e.Message) {
		return nil
	}
	level := slog.LevelDebug // the libraries' "info" is what happens inside them
	switch e.Level {
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.ErrorLevel, logrus.FatalLevel, logrus.PanicLevel:
		level = slog.LevelError
	}
	args := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	t.log.Log(context.Background(), level, e.Message, args...)
	return nil
}

// cosmetic messages are logged as errors at each container's end, and mean nothing (containerd
// v2.4: the shim's log pipe is closed; cgroup v1's event poll has ended).
func cosmetic(msg string) bool {
	return strings.Contains(msg, "copy shim log") || strings.Contains(msg, "cgroups: epoll wait")
}
